# What lies between the model and the program.
ibot_test(NAME trainer.run_options SOURCES run_options_test.c LIBS ibot_run_options)
ibot_test(NAME trainer.checkpoint SOURCES checkpoint_test.c LIBS model_fixture ibot_trainer)
