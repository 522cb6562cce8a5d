// Launching a kernel of the wrapper set (simt.h):
//
//   launch<Kernel>(queue, blocks, params)
//   queue.multiprocessors()
//   read_number(queue, address)   an int64 on the device, waiting for it
//
// With nvcc these go to CUDA, with a host compiler to the emulation of the tests.
#pragma once

#ifdef __CUDACC__
#include "common/launch_cuda.h"
#else
#include "launch_emulation.h"
#endif
