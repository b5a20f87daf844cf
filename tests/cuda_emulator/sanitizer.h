/* Marks memory for the address sanitizer, where there is one. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_SANITIZER_H
#define IBOT_TESTS_CUDA_EMULATOR_SANITIZER_H

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ADDRESS_SANITIZER 1
#endif
#endif

#ifdef WITH_ADDRESS_SANITIZER
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
/* For what looks at red zones itself. */
#define WITHOUT_ADDRESS_SANITIZER __attribute__((no_sanitize_address))
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes)   ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define WITHOUT_ADDRESS_SANITIZER
#endif

#endif
