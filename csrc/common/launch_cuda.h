// launch.h on CUDA.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace ptmkernels {

constexpr int kSharedBytesWithoutAsking = 48 * 1024;

// The stream of a device that work is queued on.
struct Queue {
  int device;
  cudaStream_t stream;

  int multiprocessors() const;
};

inline void check_cuda(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

inline int Queue::multiprocessors() const {
  int count = 0;
  check_cuda(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
             "the number of multiprocessors");
  return count;
}

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kThreads, Kernel::kMinBlocks)
    simt_kernel(const __grid_constant__ typename Kernel::Params params) {
  Kernel::run(params);
}

template <typename Kernel>
void launch(const Queue& queue, int64_t blocks, const typename Kernel::Params& params) {
  if (blocks == 0) return;
  const int shared_bytes = Kernel::shared_bytes(params);
  if (shared_bytes > kSharedBytesWithoutAsking) {
    check_cuda(cudaFuncSetAttribute(simt_kernel<Kernel>,
                                    cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
               "shared memory of a ptmkernels kernel");
  }
  simt_kernel<Kernel>
      <<<static_cast<unsigned>(blocks), Kernel::kThreads, shared_bytes, queue.stream>>>(params);
  check_cuda(cudaGetLastError(), "launch of a ptmkernels kernel");
}

}  // namespace ptmkernels
