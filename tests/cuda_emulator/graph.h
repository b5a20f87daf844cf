/* Capture of streams into graphs. */
#ifndef IBOT_TESTS_CUDA_EMULATOR_GRAPH_H
#define IBOT_TESTS_CUDA_EMULATOR_GRAPH_H

#include "tests/cuda_emulator/runtime.h"

namespace emulator
{
/* Adds work to the capture that the stream is in. */
cudaError_t record(CUstream_st *stream, operation &&work);
/* An event recorded in, or waited for by, a stream of which one captures. */
cudaError_t record_event(CUevent_st *event, CUstream_st *stream);
cudaError_t wait_for_captured(CUstream_st *stream, const CUevent_st *event);

/* Errors, which end the capture: who asks for the state of what is recorded, and work for the
 * stream of all who name none while one that blocks with it is captured. */
cudaError_t forbid_captured(const CUstream_st *stream, const char *call);
cudaError_t forbid_captured(const CUevent_st *event, const char *call);
cudaError_t forbid_implicit(const char *call);
} // namespace emulator

#endif
