// cpu_arch() -> str: the instruction set of the CPU kernels, for `ptmkernels info`.

#include <torch/csrc/stable/library.h>

#include "common/cpu_arch.h"

namespace {

std::string cpu_arch() { return ptmkernels::name_of(ptmkernels::selected_cpu_arch()); }

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CompositeExplicitAutograd, m) {
  m.impl("cpu_arch", TORCH_BOX(&cpu_arch));
}
