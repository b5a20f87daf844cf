# Pictures of a run: the contact sheet and the curves.
add_library(ibot_picture STATIC picture.c plot.c plot_accuracy.c plot_log.c)
target_link_libraries(ibot_picture PUBLIC ibot_wire ibot_base ibot_flags
  PRIVATE ibot_canvas_png PkgConfig::JANSSON)
if(IBOT_USE_VIPS)
  target_sources(ibot_picture PRIVATE plot_png.c)
  target_link_libraries(ibot_picture PRIVATE PkgConfig::VIPS)
else()
  target_sources(ibot_picture PRIVATE plot_png_none.c)
endif()
