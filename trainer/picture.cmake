# Pictures of a run: the contact sheet and the curves.
add_library(ibot_picture STATIC picture.c plot.c plot_accuracy.c plot_log.c plot_png.c)
target_link_libraries(ibot_picture PUBLIC ibot_wire ibot_base ibot_flags
  PRIVATE ibot_canvas_png PkgConfig::JANSSON PkgConfig::VIPS)
