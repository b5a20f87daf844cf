add_library(ibot_tfrecord STATIC
  crc32c.c
  tfrecord.c)
target_link_libraries(ibot_tfrecord PUBLIC ibot_base ibot_flags)
