ibot_test(NAME trainer.metrics SOURCES metrics_test.c LIBS test_folder ibot_trainer_metrics PkgConfig::JANSSON)
ibot_test(NAME trainer.cluster_scores SOURCES cluster_scores_test.c LIBS ibot_trainer_metrics)
ibot_test(NAME trainer.progress SOURCES progress_test.c LIBS ibot_trainer_metrics)
ibot_test(NAME trainer.event_file SOURCES event_file_test.c
  LIBS ibot_trainer_metrics ibot_tfrecord ibot_event_pb)
