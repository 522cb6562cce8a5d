// The CUDA kernel of the template op (see template_op.cpp): out = alpha * x + y.

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>

#include "common/cuda_stream.h"

namespace {

using torch::stable::Tensor;

// One element a thread and step; 64-bit indices, so that more than 2^31 elements are right.
__global__ void template_op_kernel(const float* x, const float* y, float* out, float alpha,
                                   int64_t numel) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < numel;
       i += stride) {
    out[i] = alpha * x[i] + y[i];
  }
}

Tensor template_op(const Tensor& x, const Tensor& y, double alpha) {
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  Tensor out = torch::stable::empty_like(x);
  if (x.numel() == 0) return out;
  constexpr int kThreads = 256;
  constexpr int64_t kMaxBlocks = 65536;
  const auto blocks = std::min((x.numel() + kThreads - 1) / kThreads, kMaxBlocks);
  template_op_kernel<<<static_cast<unsigned>(blocks), kThreads, 0,
                       ptmkernels::current_stream(x.get_device_index())>>>(
      static_cast<const float*>(x.data_ptr()), static_cast<const float*>(y.data_ptr()),
      static_cast<float*>(out.data_ptr()), static_cast<float>(alpha), x.numel());
  STD_CUDA_KERNEL_LAUNCH_CHECK();
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CUDA, m) { m.impl("template_op", TORCH_BOX(&template_op)); }
