// Launching a kernel of the wrapper set (simt.h):
//
//   launch<Kernel>(queue, blocks, params)
//   queue.multiprocessors()
//
// With nvcc these go to CUDA, with a host compiler to the emulation of the tests.
#pragma once

#ifdef __CUDACC__
#include "common/launch_cuda.h"
#else
#include "launch_emulation.h"
#endif
