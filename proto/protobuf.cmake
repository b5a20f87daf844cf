# ibot_protobuf(TARGET file.proto): a library of the protobuf-c code for proto/file.proto. Its header is
# included as "proto/file.pb-c.h". Generated code is not held to our warnings.
function(ibot_protobuf target file)
  get_filename_component(stem ${file} NAME_WE)
  set(generated ${CMAKE_BINARY_DIR}/proto/${stem}.pb-c)
  add_custom_command(
    OUTPUT ${generated}.c ${generated}.h
    COMMAND protoc --proto_path=${CMAKE_SOURCE_DIR} --c_out=${CMAKE_BINARY_DIR}
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
