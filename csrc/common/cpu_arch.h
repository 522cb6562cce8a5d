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

}  // namespace ptmkernels
