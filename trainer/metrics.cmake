add_library(ibot_trainer_metrics STATIC
  cluster_scores.c
  event_file.c
  log_line.c
  metrics.c
  progress.c)
target_link_libraries(ibot_trainer_metrics
  PUBLIC ibot_base ibot_flags
  PRIVATE ibot_tfrecord ibot_event_pb PkgConfig::JANSSON)
