/* A driver of CUDA without a device: enough of it that cuDNN compiles its plans, as libcuda.so.1 on
 * the library path of one test. Code can be loaded and asked about; all else fails. */
#include <stddef.h>

enum { SUCCESS = 0, NO_DEVICE = 100, DRIVER_VERSION = 13000, REGISTERS = 64 };

#define SUCCEEDS(name)                                                                             \
    int name(void);                                                                                \
    int name(void)                                                                                 \
    {                                                                                              \
        return SUCCESS;                                                                            \
    }
#define GIVES_HANDLE(name)                                                                         \
    int name(void **out);                                                                          \
    int name(void **out)                                                                           \
    {                                                                                              \
        static char handle;                                                                        \
        *out = &handle;                                                                            \
        return SUCCESS;                                                                            \
    }
#define GIVES_NUMBER(name, number)                                                                 \
    int name(int *out);                                                                            \
    int name(int *out)                                                                             \
    {                                                                                              \
        *out = number;                                                                             \
        return SUCCESS;                                                                            \
    }
#define GIVES_TEXT(name)                                                                           \
    int name(int error, const char **out);                                                         \
    int name(int error, const char **out)                                                          \
    {                                                                                              \
        (void)error;                                                                               \
        *out = "no device: a stub of the driver";                                                  \
        return SUCCESS;                                                                            \
    }
#define FAILS(name)                                                                                \
    int name(void);                                                                                \
    int name(void)                                                                                 \
    {                                                                                              \
        return NO_DEVICE;                                                                          \
    }

SUCCEEDS(cuInit)
SUCCEEDS(cuLibraryUnload)
SUCCEEDS(cuKernelSetAttribute)
SUCCEEDS(cuFuncSetAttribute)
GIVES_HANDLE(cuLibraryLoadData)
GIVES_HANDLE(cuLibraryGetKernel)
GIVES_HANDLE(cuKernelGetFunction)
GIVES_HANDLE(cuCtxGetCurrent)
GIVES_NUMBER(cuKernelGetAttribute, REGISTERS)
GIVES_NUMBER(cuFuncGetAttribute, REGISTERS)
GIVES_NUMBER(cuDriverGetVersion, DRIVER_VERSION)
GIVES_NUMBER(cuDeviceGetCount, 1)
GIVES_NUMBER(cuDeviceGet, 0)
GIVES_NUMBER(cuCtxGetDevice, 0)
GIVES_TEXT(cuGetErrorString)
GIVES_TEXT(cuGetErrorName)

FAILS(cuCtxGetLimit)
FAILS(cuCtxPopCurrent)
FAILS(cuCtxPushCurrent)
FAILS(cuDeviceGetAttribute)
FAILS(cuDevicePrimaryCtxRelease)
FAILS(cuDevicePrimaryCtxReset)
FAILS(cuDevicePrimaryCtxRetain)
FAILS(cuGetExportTable) /* its absence would be the compiler's end */
FAILS(cuLaunchCooperativeKernel)
FAILS(cuLaunchKernel)
FAILS(cuLaunchKernelEx)
FAILS(cuLibraryLoadFromFile)
FAILS(cuLinkAddData)
FAILS(cuLinkAddData_v2)
FAILS(cuLinkAddFile_v2)
FAILS(cuLinkComplete)
FAILS(cuLinkCreate)
FAILS(cuLinkCreate_v2)
FAILS(cuLinkDestroy)
FAILS(cuMemcpyDtoH_v2)
FAILS(cuModuleGetFunction)
FAILS(cuModuleGetGlobal_v2)
FAILS(cuModuleLoadData)
FAILS(cuModuleLoadDataEx)
FAILS(cuModuleLoadFatBinary)
FAILS(cuModuleUnload)
FAILS(cuOccupancyMaxActiveBlocksPerMultiprocessor)
FAILS(cuOccupancyMaxPotentialClusterSize)
FAILS(cuStreamGetCtx)
FAILS(cuStreamSynchronize)
FAILS(cuTensorMapEncodeTiled)
