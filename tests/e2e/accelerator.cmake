# Programs with other kernels than those of this build: the same sources and objects, with what stands
# in for an accelerator before it. add_programs_with(SUFFIX kernels…): ibot-train-SUFFIX, …
function(add_programs_with suffix)
  foreach(program ibot-train ibot-eval ibot-analyze)
    get_target_property(folder ${program} SOURCE_DIR)
    get_target_property(sources ${program} SOURCES)
    get_target_property(libraries ${program} LINK_LIBRARIES)
    get_target_property(definitions ${program} COMPILE_DEFINITIONS)
    list(TRANSFORM sources PREPEND ${folder}/)
    add_executable(${program}-${suffix} ${sources})
    target_link_libraries(${program}-${suffix} PRIVATE ${ARGN} ${libraries})
    if(definitions)
      target_compile_definitions(${program}-${suffix} PRIVATE ${definitions})
    endif()
  endforeach()
endfunction()
# add_accelerator_test(NAME script program arguments…): e2e.NAME, where NAME ends with the backend
function(add_accelerator_test name script)
  add_test(NAME e2e.${name}
    COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/${script} ${ARGN})
  string(REGEX REPLACE ".*\\." "" backend ${name})
  backend_labels(labels e2e ${backend})
  set_tests_properties(e2e.${name} PROPERTIES
    TIMEOUT 900 LABELS "${labels}" SKIP_RETURN_CODE 77
    ENVIRONMENT "IBOT_TEST_DATA=${IBOT_TEST_DATA};IBOT_BIN=${CMAKE_BINARY_DIR}/bin;IBOT_PYTHON=${CMAKE_SOURCE_DIR}/build/python/bin/python;IBOT_LOG_LEVEL=info")
endfunction()
add_programs_with(queued queued_kernels queued_device)
add_accelerator_test(accelerator.queued accelerator_test.sh $<TARGET_FILE:ibot-train-queued> 8)
add_accelerator_test(accelerator_knn.queued accelerator_knn_test.sh $<TARGET_FILE:ibot-eval-queued>)
add_accelerator_test(accelerator_finetune.queued accelerator_finetune_test.sh $<TARGET_FILE:ibot-eval-queued>)
add_accelerator_test(batch_size.queued batch_size_test.sh $<TARGET_FILE:ibot-train-queued>)
add_accelerator_test(host_waits.queued host_waits_test.sh $<TARGET_FILE:ibot-train-queued>)
if(TARGET ibot_kernels_emulated)
  add_programs_with(emulated -Wl,--whole-archive ibot_kernels_emulated -Wl,--no-whole-archive)
  add_accelerator_test(accelerator.cuda_emulated accelerator_test.sh $<TARGET_FILE:ibot-train-emulated> 2)
  add_accelerator_test(accelerator_knn.cuda_emulated accelerator_knn_test.sh $<TARGET_FILE:ibot-eval-emulated>)
  add_accelerator_test(accelerator_finetune.cuda_emulated accelerator_finetune_test.sh $<TARGET_FILE:ibot-eval-emulated>)
  add_accelerator_test(accelerator_ranks.cuda_emulated accelerator_ranks_test.sh
    $<TARGET_FILE:ibot-train-emulated> $<TARGET_FILE:run_ranks>)
  add_accelerator_test(rank_failures.cuda_emulated rank_failures_test.sh
    $<TARGET_FILE:ibot-train-emulated> $<TARGET_FILE:run_ranks>)
  foreach(name finetune knn linear segment)
    add_accelerator_test(${name}_ranks.cuda_emulated ${name}_ranks_test.sh
      $<TARGET_FILE:ibot-eval-emulated> cuda $<TARGET_FILE:run_ranks>)
  endforeach()
endif()
# CPU ranks, skipped where there is no mpirun
foreach(name finetune knn linear segment)
  add_accelerator_test(${name}_ranks.cpu ${name}_ranks_test.sh $<TARGET_FILE:ibot-eval> cpu)
endforeach()
# with a GPU; skipped where there is none
add_accelerator_test(accelerator.cuda accelerator_test.sh $<TARGET_FILE:ibot-train> 8)
add_accelerator_test(accelerator_knn.cuda accelerator_knn_test.sh $<TARGET_FILE:ibot-eval>)
add_accelerator_test(accelerator_finetune.cuda accelerator_finetune_test.sh $<TARGET_FILE:ibot-eval>)

add_accelerator_test(accelerator_retrieval.queued accelerator_retrieval_test.sh $<TARGET_FILE:ibot-eval-queued>)
if(TARGET ibot-eval-emulated)
  add_accelerator_test(accelerator_retrieval.cuda_emulated accelerator_retrieval_test.sh $<TARGET_FILE:ibot-eval-emulated>)
endif()
add_accelerator_test(accelerator_retrieval.cuda accelerator_retrieval_test.sh $<TARGET_FILE:ibot-eval>)

if(IBOT_USE_PNG) # labels are images
  add_accelerator_test(accelerator_video.queued accelerator_video_test.sh $<TARGET_FILE:ibot-eval-queued>)
  if(TARGET ibot-eval-emulated)
    add_accelerator_test(accelerator_video.cuda_emulated accelerator_video_test.sh $<TARGET_FILE:ibot-eval-emulated>)
  endif()
  add_accelerator_test(accelerator_video.cuda accelerator_video_test.sh $<TARGET_FILE:ibot-eval>)
endif()

if(IBOT_USE_VIPS) # pictures are made
  add_accelerator_test(accelerator_segment.queued accelerator_segment_test.sh $<TARGET_FILE:ibot-eval-queued>)
  if(TARGET ibot-eval-emulated)
    add_accelerator_test(accelerator_segment.cuda_emulated accelerator_segment_test.sh $<TARGET_FILE:ibot-eval-emulated>)
  endif()
  add_accelerator_test(accelerator_segment.cuda accelerator_segment_test.sh $<TARGET_FILE:ibot-eval>)
  add_accelerator_test(accelerator_analyze.queued accelerator_analyze_test.sh
    $<TARGET_FILE:ibot-analyze-queued>)
  if(TARGET ibot-analyze-emulated)
    add_accelerator_test(accelerator_analyze.cuda_emulated accelerator_analyze_test.sh
      $<TARGET_FILE:ibot-analyze-emulated>)
  endif()
  add_accelerator_test(accelerator_analyze.cuda accelerator_analyze_test.sh $<TARGET_FILE:ibot-analyze>)
endif()
