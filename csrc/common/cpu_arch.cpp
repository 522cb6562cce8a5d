#include "common/cpu_arch.h"

#include <cstdlib>
#include <stdexcept>

namespace ptmkernels {
namespace {

constexpr CpuArch kAll[] = {CpuArch::kGeneric, CpuArch::kAvx2, CpuArch::kAvx512,
                            CpuArch::kAvx512Bf16, CpuArch::kWide};

bool supports(CpuArch arch) {
  if (arch == CpuArch::kGeneric) return true;
#if PTMKERNELS_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  switch (arch) {
    case CpuArch::kAvx2:
    case CpuArch::kWide:  // compiled for AVX2 on this architecture
      return avx2;
    case CpuArch::kAvx512:
      return avx512;
    case CpuArch::kAvx512Bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16");
    default:
      return false;
  }
#else
  return arch == CpuArch::kWide;
#endif
}

std::string names(const std::vector<CpuArch>& archs) {
  std::string list;
  for (CpuArch arch : archs) list += (list.empty() ? "" : ", ") + std::string(name_of(arch));
  return list;
}

}  // namespace

const char* name_of(CpuArch arch) {
  switch (arch) {
    case CpuArch::kGeneric:
      return "generic";
    case CpuArch::kAvx2:
      return "avx2";
    case CpuArch::kAvx512:
      return "avx512";
    case CpuArch::kAvx512Bf16:
      return "avx512_bf16";
    case CpuArch::kWide:
      return "wide";
  }
  return "unknown";
}

std::vector<CpuArch> supported_cpu_archs() {
  std::vector<CpuArch> archs;
  for (CpuArch arch : kAll) {
    if (arch != CpuArch::kWide && supports(arch)) archs.push_back(arch);
  }
  return archs;
}

CpuArch selected_cpu_arch() {
  static const std::vector<CpuArch> supported = supported_cpu_archs();
  const char* const forced = std::getenv("PTMKERNELS_CPU_ARCH");
  if (!forced || !*forced) return supported.back();
  for (CpuArch arch : kAll) {
    if (forced != std::string(name_of(arch))) continue;
    if (supports(arch)) return arch;
    throw std::runtime_error("PTMKERNELS_CPU_ARCH is '" + std::string(forced) +
                             "', which this processor cannot run; it can run: " + names(supported));
  }
  throw std::runtime_error("PTMKERNELS_CPU_ARCH is '" + std::string(forced) +
                           "', expected one of: " + names(supported));
}

}  // namespace ptmkernels
