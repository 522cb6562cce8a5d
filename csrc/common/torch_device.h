// The device side of a torch op:
//
//   DeviceScope scope(tensor)   the device of a tensor is the current one for the scope
//   scope.queue()               the stream that torch works on there
//   scope.reads(tensors...), scope.writes(tensors...), scope.workspace(tensor)
//                               what the op's kernels may touch; only the emulation looks at it
#pragma once

#ifdef __CUDACC__
#include "common/torch_device_cuda.h"
#else
#include "torch_device_emulation.h"
#endif
