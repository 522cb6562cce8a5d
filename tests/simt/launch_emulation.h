// csrc/common/launch.h for a host compiler: kernels run in the engine.
#pragma once

#include <cstdint>

#include "engine.h"

namespace ptmkernels {

struct Queue {
  int multiprocessors() const { return simt::emulation::Engine::get().multiprocessors(); }
};

template <typename Kernel>
void launch(const Queue&, int64_t blocks, const typename Kernel::Params& params) {
  simt::emulation::Engine::get().launch(blocks, Kernel::kMinBlocks, Kernel::kThreads,
                                        Kernel::shared_bytes(params),
                                        [&params] { Kernel::run(params); });
}

}  // namespace ptmkernels
