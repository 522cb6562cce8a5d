// csrc/common/torch_device.h for a host compiler: tensors lie in host memory, and kernels may touch
// only those that the op names.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstring>
#include <optional>

#include "common/launch.h"

namespace ptmkernels {

class DeviceScope {
 public:
  explicit DeviceScope(const torch::stable::Tensor&) { engine().forget_buffers(); }

  Queue queue() const { return {}; }

  template <typename... Tensors>
  void reads(const Tensors&... tensors) const {
    (declare(tensors, false), ...);
  }

  // What a kernel does not write stays NaN.
  template <typename... Tensors>
  void writes(const Tensors&... tensors) const {
    ((declare(tensors, true), poison(tensors)), ...);
  }

  void workspace(const torch::stable::Tensor& tensor) const { writes(tensor); }

 private:
  using Tensor = torch::stable::Tensor;

  static simt::emulation::Engine& engine() { return simt::emulation::Engine::get(); }

  static size_t extent(const Tensor& tensor) {
    if (tensor.numel() == 0) return 0;
    int64_t last = 0;
    for (int64_t d = 0; d < tensor.dim(); ++d) last += (tensor.size(d) - 1) * tensor.stride(d);
    return static_cast<size_t>(last + 1) * tensor.element_size();
  }

  static void declare(const Tensor& tensor, bool writable) {
    engine().declare(tensor.data_ptr(), extent(tensor), writable);
  }
  static void declare(const std::optional<Tensor>& tensor, bool writable) {
    if (tensor) declare(*tensor, writable);
  }
  static void poison(const Tensor& tensor) { std::memset(tensor.data_ptr(), 0xff, extent(tensor)); }
};

}  // namespace ptmkernels
