# CUDA needs nvcc and nothing else: the run-time library is linked statically, and the stream comes
# from torch. USE_CUDA shows torch's CUDA functions of the stable ABI, whatever torch is installed.
# -std=c++20 is given as a flag: CMake 3.25 does not know that nvcc takes it.

set(CMAKE_CUDA_COMPILER "${PTMKERNELS_NVCC}")
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_ARCHITECTURES "${PTMKERNELS_CUDA_ARCHS}")
enable_language(CUDA)

function(ptmkernels_cuda_library target)
  target_compile_definitions(${target} PRIVATE USE_CUDA)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 --expt-relaxed-constexpr --threads=2>)
  set_target_properties(${target} PROPERTIES CUDA_VISIBILITY_PRESET hidden)
endfunction()
