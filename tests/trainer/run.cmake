# What lies between the model and the program.
ibot_test(NAME trainer.run_options SOURCES run_options_test.c LIBS ibot_run_options)
ibot_test(NAME trainer.batch_size SOURCES batch_size_test.c LIBS model_fixture ibot_run_options)
if(IBOT_USE_PNG)
  ibot_test(NAME trainer.label_image SOURCES label_image_test.c LIBS test_folder ibot_label_image ibot_pixels)
endif()
ibot_test(NAME trainer.scene_crop SOURCES scene_crop_test.c LIBS ibot_segment)
ibot_test(NAME trainer.coco SOURCES coco_test.c LIBS ibot_coco)
ibot_test(NAME trainer.sliding_window SOURCES sliding_window_test.c LIBS ibot_segment)
if(IBOT_USE_PNG)
  ibot_test(NAME trainer.segment SOURCES segment_test.c LIBS test_folder ibot_segment)
endif()
ibot_test(NAME trainer.linear_probe SOURCES linear_probe_test.c LIBS ibot_eval)
ibot_test(NAME trainer.finetune SOURCES finetune_test.c LIBS ibot_eval)
ibot_test(NAME trainer.rank_agreement SOURCES rank_agreement_test.c LIBS ibot_trainer)
ibot_test(NAME trainer.rank_rows SOURCES rank_rows_test.c LIBS ibot_trainer)
ibot_test(NAME trainer.batch_upload SOURCES batch_upload_test.c LIBS ibot_trainer queued_device)
ibot_test(NAME trainer.analysis_golden SOURCES analysis_golden_test.c
  LIBS model_fixture ibot_analysis)
ibot_test(NAME trainer.patterns SOURCES patterns_test.c LIBS ibot_analysis)
ibot_test(NAME trainer.checkpoint SOURCES checkpoint_test.c LIBS model_fixture ibot_trainer)

# A stored run that is handed over as a checkpoint of the original after its first and second epoch.
add_executable(golden_official golden_official.c)
target_link_libraries(golden_official PRIVATE golden_replay ibot_trainer)
foreach(name vit_shared vit_separate_heads_droppath vit_default_head_sharing swin)
  foreach(epoch 1 2)
    if(name STREQUAL "swin" AND epoch EQUAL 2)
      continue() # it has two epochs
    endif()
    set(checkpoint)
    if(name STREQUAL "vit_shared")
      set(checkpoint ${IBOT_TEST_DATA}/golden/official_checkpoint.pth)
    endif()
    add_test(NAME trainer.official.${name}.${epoch}
      COMMAND golden_official ${IBOT_TEST_DATA}/golden/${name}.safetensors ${epoch} ${checkpoint})
    set_tests_properties(trainer.official.${name}.${epoch} PROPERTIES
      TIMEOUT 120 LABELS fast ENVIRONMENT "OMP_NUM_THREADS=2;OMP_WAIT_POLICY=passive")
  endforeach()
endforeach()

ibot_test(NAME trainer.features SOURCES features_test.c LIBS ibot_eval)
ibot_test(NAME trainer.occlusion SOURCES occlusion_test.c LIBS ibot_robustness)
ibot_test(NAME trainer.robustness SOURCES robustness_test.c LIBS test_folder ibot_robustness)
ibot_test(NAME trainer.retrieval SOURCES retrieval_test.c LIBS ibot_retrieval)
ibot_test(NAME trainer.copy_detection SOURCES copy_detection_test.c LIBS ibot_retrieval)
ibot_test(NAME trainer.feature_rows SOURCES feature_rows_test.c LIBS test_folder ibot_retrieval)
ibot_test(NAME trainer.prototypes SOURCES prototypes_test.c LIBS ibot_eval)
ibot_test(NAME trainer.pretrained SOURCES pretrained_test.c LIBS model_fixture ibot_trainer)
ibot_test(NAME trainer.linear_head SOURCES linear_head_test.c LIBS test_folder ibot_trainer)

# Published weights by name and shape; files of several GiB, which take disk while they are written.
ibot_test(NAME trainer.weight_tables SOURCES weight_tables_test.c sparse_weights.c
  LIBS test_folder ibot_trainer PkgConfig::ZLIB)
ibot_test(NAME trainer.large_weights SOURCES large_weights_test.c sparse_weights.c
  LIBS test_folder ibot_weights PkgConfig::ZLIB LABELS slow TIMEOUT 300)

# What PyTorch and timm say to our files, and whether the steps in PyTorch that ours is timed against
# compute what ours does; skipped where they are not installed.
if(NOT IBOT_SANITIZE)
  add_test(NAME trainer.torch_step
    COMMAND ${CMAKE_SOURCE_DIR}/scripts/setup_torch.sh run
      ${CMAKE_SOURCE_DIR}/scripts/check_torch_step.py ${IBOT_TEST_DATA})
  add_test(NAME trainer.torch_weights
    COMMAND ${CMAKE_SOURCE_DIR}/scripts/setup_torch.sh run
      ${CMAKE_SOURCE_DIR}/scripts/check_torch_weights.py ${CMAKE_BINARY_DIR}/bin ${IBOT_TEST_DATA})
  set_tests_properties(trainer.torch_weights trainer.torch_step PROPERTIES
    TIMEOUT 900 LABELS slow SKIP_RETURN_CODE 77 ENVIRONMENT "OMP_WAIT_POLICY=passive")
endif()
