# ibot_protobuf(TARGET file.proto): a library of the protobuf-c code for proto/file.proto. Its header is
# included as "proto/file.pb-c.h". Generated code is not held to our warnings.
function(ibot_protobuf target file)
  set(run_protoc)
  if(IBOT_SYSROOT) # its own libraries lie beside it
    list(JOIN sysroot_folders ":" folders)
    set(run_protoc ${CMAKE_COMMAND} -E env LD_LIBRARY_PATH=${folders})
  endif()
  get_filename_component(stem ${file} NAME_WE)
  set(generated ${CMAKE_BINARY_DIR}/proto/${stem}.pb-c)
  add_custom_command(
    OUTPUT ${generated}.c ${generated}.h
    COMMAND ${run_protoc} ${IBOT_PROTOC} --plugin=protoc-gen-c=${IBOT_PROTOC_C} --proto_path=${CMAKE_SOURCE_DIR} --c_out=${CMAKE_BINARY_DIR}
            ${CMAKE_SOURCE_DIR}/proto/${file}
    DEPENDS ${CMAKE_SOURCE_DIR}/proto/${file}
    COMMENT "protoc proto/${file}"
    VERBATIM)
  add_library(${target} STATIC ${generated}.c ${generated}.h)
  target_include_directories(${target} SYSTEM PUBLIC ${CMAKE_BINARY_DIR})
  target_link_libraries(${target} PUBLIC PkgConfig::PROTOBUF_C)
  if(IBOT_SANITIZE)
    target_compile_options(${target} PRIVATE -fsanitize=${IBOT_SANITIZE})
  endif()
endfunction()
