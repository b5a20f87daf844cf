# The libraries that are not ours, all found here: as imported targets PkgConfig::ZMQ, …, BLAS::BLAS.
#
# A missing one ends the configuration, unless IBOT_PARTIAL=ON: then what needs it is left out, and
# the configuration closes with a list of it. That is for machines to which nothing can be installed,
# such as a borrowed GPU (scripts/gpu_check.sh):
#
#   the compute side     always: ops, kernels, model, their tests and benchmarks
#   IBOT_USE_WEIGHTS     weight files and the golden runs
#   IBOT_USE_PROGRAMS    loaders, stream, trainer, evaluation, and their tests
#   IBOT_USE_VIPS        PNG, WebP and TIFF in loaders; contact sheets
#   IBOT_USE_PNG         images of labels: segmented videos
#   IBOT_USE_ZMQ         ranks that meet (NCCL)
#
# IBOT_SYSROOT names a folder of unpacked Debian or Ubuntu packages (scripts/pack_packages.sh), which
# comes before the machine's own; programs find its libraries where it lies.
option(IBOT_PARTIAL "Leave out what needs a library that is missing, instead of ending" OFF)
set(IBOT_SYSROOT "" CACHE PATH "Folder of unpacked packages to take libraries from")

set(missing_libraries)
set(missing_packages)
set(sysroot_folders)
set(sysroot_headers)
if(IBOT_SYSROOT)
  get_filename_component(IBOT_SYSROOT "${IBOT_SYSROOT}" ABSOLUTE)
  set(triplet ${CMAKE_SYSTEM_PROCESSOR}-linux-gnu)
  set(sysroot_folders ${IBOT_SYSROOT}/usr/lib/${triplet} ${IBOT_SYSROOT}/lib/${triplet})
  set(sysroot_headers ${IBOT_SYSROOT}/usr/include ${IBOT_SYSROOT}/usr/include/${triplet})
  if(NOT EXISTS ${IBOT_SYSROOT}/usr/include)
    message(FATAL_ERROR "IBOT_SYSROOT: '${IBOT_SYSROOT}' has no usr/include; "
      "make it with scripts/pack_packages.sh and unpack it there")
  endif()
  # DT_RPATH, not DT_RUNPATH: the libraries that these libraries need lie there too.
  list(TRANSFORM sysroot_folders PREPEND -Wl,-rpath, OUTPUT_VARIABLE run_paths)
  add_link_options(-Wl,--disable-new-dtags ${run_paths})
endif()

# lacks(NAME package): noted; an error later unless IBOT_PARTIAL
macro(lacks name package)
  list(APPEND missing_libraries ${name})
  list(APPEND missing_packages ${package})
endmacro()

# find_library_of(PREFIX module header library package): PkgConfig::PREFIX and PREFIX_FOUND, through
# pkg-config, else by looking for the files.
macro(find_library_of prefix module header library package)
  if(PKG_CONFIG_FOUND AND NOT IBOT_SYSROOT)
    pkg_check_modules(${prefix} QUIET IMPORTED_TARGET "${module}")
  endif()
  if(NOT ${prefix}_FOUND AND NOT "${library}" STREQUAL "")
    find_path(${prefix}_INCLUDE_DIR ${header} HINTS ${sysroot_headers})
    find_library(${prefix}_LIBRARY ${library} HINTS ${sysroot_folders})
    if(${prefix}_INCLUDE_DIR AND ${prefix}_LIBRARY)
      set(${prefix}_FOUND TRUE)
      add_library(PkgConfig::${prefix} UNKNOWN IMPORTED)
      set_target_properties(PkgConfig::${prefix} PROPERTIES
        IMPORTED_LOCATION ${${prefix}_LIBRARY}
        INTERFACE_INCLUDE_DIRECTORIES "${${prefix}_INCLUDE_DIR};${sysroot_headers}")
    endif()
  endif()
  if(NOT ${prefix}_FOUND)
    lacks("${module}" ${package})
  endif()
endmacro()

find_package(PkgConfig QUIET)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)
find_library_of(ZMQ libzmq zmq.h zmq libzmq3-dev)
find_library_of(PROTOBUF_C libprotobuf-c protobuf-c/protobuf-c.h protobuf-c libprotobuf-c-dev)
find_library_of(XXHASH libxxhash xxhash.h xxhash libxxhash-dev)
find_library_of(JANSSON jansson jansson.h jansson libjansson-dev)
find_library_of(MICROHTTPD "libmicrohttpd>=0.9.71" microhttpd.h microhttpd libmicrohttpd-dev)
find_library_of(YAML yaml-0.1 yaml.h yaml libyaml-dev)
find_library_of(VIPS vips "" "" libvips-dev)
find_library_of(PNG libpng png.h png libpng-dev)
find_library_of(LIBZIP libzip zip.h zip libzip-dev)
find_library_of(ZLIB zlib zlib.h z zlib1g-dev)
find_library_of(JPEG libjpeg jpeglib.h jpeg "libjpeg62-turbo-dev or libjpeg-turbo8-dev")
if(IBOT_TESTS OR IBOT_FUZZ)
  find_library_of(CMOCKA cmocka cmocka.h cmocka libcmocka-dev)
endif()

find_program(IBOT_PROTOC protoc HINTS ${IBOT_SYSROOT}/usr/bin)
find_program(IBOT_PROTOC_C protoc-gen-c HINTS ${IBOT_SYSROOT}/usr/bin)
set(PROTOC_FOUND ON)
if(NOT IBOT_PROTOC OR NOT IBOT_PROTOC_C)
  set(PROTOC_FOUND OFF)
  lacks(protoc-gen-c "protobuf-compiler protobuf-c-compiler")
endif()

# CBLAS: header and library must go together.
find_path(CBLAS_INCLUDE_DIR cblas.h
  HINTS ${sysroot_headers}
  PATHS /usr/include/${CMAKE_LIBRARY_ARCHITECTURE}
  PATH_SUFFIXES openblas openblas-openmp openblas-pthread)
if(CBLAS_INCLUDE_DIR AND IBOT_SYSROOT)
  find_library(BLAS_LIBRARIES openblas HINTS ${sysroot_folders} PATH_SUFFIXES openblas-openmp openblas-pthread)
endif()
if(CBLAS_INCLUDE_DIR)
  find_package(BLAS QUIET)
endif()
if(NOT BLAS_FOUND)
  lacks(cblas libopenblas-dev)
endif()
if(NOT IBOT_MPI STREQUAL "OFF")
  if(IBOT_MPI STREQUAL "ON")
    find_package(MPI REQUIRED COMPONENTS C)
  else()
    find_package(MPI COMPONENTS C)
  endif()
endif()

if(missing_libraries AND NOT IBOT_PARTIAL)
  string(REPLACE ";" ", " missing_libraries "${missing_libraries}")
  string(REPLACE ";" " " missing_packages "${missing_packages}")
  message(FATAL_ERROR "libraries are missing: ${missing_libraries}\n"
    "On Debian or Ubuntu scripts/setup.sh installs them: ${missing_packages}\n"
    "Where nothing can be installed, -DIBOT_PARTIAL=ON builds what does not need them.")
endif()

# all_found(VARIABLE PREFIX…)
function(all_found variable)
  set(${variable} ON PARENT_SCOPE)
  foreach(prefix ${ARGN})
    if(NOT ${prefix}_FOUND)
      set(${variable} OFF PARENT_SCOPE)
    endif()
  endforeach()
endfunction()
all_found(IBOT_USE_VIPS VIPS)
all_found(IBOT_USE_PNG PNG)
all_found(IBOT_USE_ZMQ ZMQ)
all_found(IBOT_USE_WEIGHTS XXHASH JANSSON LIBZIP ZLIB)
all_found(IBOT_USE_PROGRAMS
  XXHASH JANSSON LIBZIP ZLIB ZMQ PROTOBUF_C PROTOC YAML MICROHTTPD JPEG)

# What this build does without, last of all, where it is seen.
function(report_missing_libraries)
  if(NOT missing_libraries)
    return()
  endif()
  set(left_out)
  if(NOT IBOT_USE_PROGRAMS)
    list(APPEND left_out "all programs (loaders, stream, trainer, evaluation)")
  endif()
  if(NOT IBOT_USE_WEIGHTS)
    list(APPEND left_out "weight files and the golden runs")
  endif()
  if(IBOT_USE_PROGRAMS AND NOT IBOT_USE_PNG)
    list(APPEND left_out "images of labels (segmented videos)")
  endif()
  if(NOT IBOT_USE_ZMQ)
    list(APPEND left_out "runs of several ranks")
  endif()
  if(IBOT_USE_PROGRAMS AND NOT IBOT_USE_VIPS)
    list(APPEND left_out "PNG, WebP, TIFF, contact sheets" "tests of these and of the stream")
  endif()
  if(NOT BLAS_FOUND)
    list(APPEND left_out "fast matrix products on the CPU")
  endif()
  if(IBOT_TESTS AND NOT CMOCKA_FOUND)
    list(APPEND left_out "cmocka (a stand-in runs the tests)")
  endif()
  string(REPLACE ";" ", " libraries "${missing_libraries}")
  string(REPLACE ";" "; " parts "${left_out}")
  message(STATUS "IBOT_PARTIAL: missing ${libraries}")
  message(STATUS "IBOT_PARTIAL: left out: ${parts}")
endfunction()
