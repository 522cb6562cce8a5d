// Which instruction set the CPU kernels use.
#pragma once

#include <string>
#include <vector>

#if defined(__x86_64__)
#define PTMKERNELS_X86 1
#else
#define PTMKERNELS_X86 0
#endif

namespace ptmkernels {

enum class CpuArch {
  kGeneric,     // what the compiler's baseline has, 4 floats a vector
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, DQ, VL
  kAvx512Bf16,  // the same and BF16
  kWide,        // 16 floats a vector on any machine: the code of AVX-512 on others, for tests
};

const char* name_of(CpuArch arch);

// Those that this machine can run, slowest first, `wide` not among them.
std::vector<CpuArch> supported_cpu_archs();

// The last of them, or the one that the environment variable PTMKERNELS_CPU_ARCH names (read at
// every call). Throws std::runtime_error where that is unknown or this machine cannot run it.
CpuArch selected_cpu_arch();

// The one of a family's tables of kernels that this machine runs; avx512_bf16 is that of AVX-512
// where a family has none of its own.
template <class Kernels>
const Kernels& for_this_cpu(const Kernels& generic, const Kernels& wide, const Kernels& avx2,
                            const Kernels& avx512, const Kernels& avx512_bf16) {
  switch (selected_cpu_arch()) {
    case CpuArch::kGeneric:
      return generic;
    case CpuArch::kAvx2:
      return avx2;
    case CpuArch::kAvx512:
      return avx512;
    case CpuArch::kAvx512Bf16:
      return avx512_bf16;
    case CpuArch::kWide:
      return wide;
  }
  return generic;
}

}  // namespace ptmkernels

// for_this_cpu(...), which on other machines does not name the tables of x86: they are not built.
#if PTMKERNELS_X86
#define PTMKERNELS_FOR_THIS_CPU(generic, wide, avx2, avx512, avx512_bf16) \
  ::ptmkernels::for_this_cpu(generic, wide, avx2, avx512, avx512_bf16)
#else
#define PTMKERNELS_FOR_THIS_CPU(generic, wide, avx2, avx512, avx512_bf16) \
  ::ptmkernels::for_this_cpu(generic, wide, generic, generic, generic)
#endif
