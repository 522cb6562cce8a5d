// torch_device.h on CUDA.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>

#include "common/cuda_stream.h"
#include "common/launch.h"

namespace ptmkernels {

class DeviceScope {
 public:
  explicit DeviceScope(const torch::stable::Tensor& tensor)
      : device_(tensor.get_device_index()), guard_(tensor.get_device_index()) {}

  Queue queue() const { return {device_, current_stream(device_)}; }

  template <typename... Tensors>
  void reads(const Tensors&...) const {}
  template <typename... Tensors>
  void writes(const Tensors&...) const {}
  void workspace(const torch::stable::Tensor&) const {}

 private:
  int device_;
  torch::stable::accelerator::DeviceGuard guard_;
};

}  // namespace ptmkernels
