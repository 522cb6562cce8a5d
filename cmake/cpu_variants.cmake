# CPU kernels are compiled once for each instruction set: <folder>/variant_<name>.cpp (csrc/common/simd.h).
# A family may leave out avx512_bf16, where those instructions gain it nothing.

set(ptmkernels_variants generic wide)
set(ptmkernels_variant_flags -ffp-contract=fast -fno-math-errno)
set(ptmkernels_avx2 -mavx2 -mfma -mf16c)
set(ptmkernels_flags_wide -O1)  # runs in tests only, and would take the longest to compile
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  list(APPEND ptmkernels_variants avx2 avx512 avx512_bf16)
  list(APPEND ptmkernels_flags_wide ${ptmkernels_avx2})
  set(ptmkernels_flags_avx2 ${ptmkernels_avx2})
  # GCC 12 takes its own "undefined" vectors in the AVX-512 headers for uninitialised ones.
  set(ptmkernels_flags_avx512 ${ptmkernels_avx2} -mavx512f -mavx512bw -mavx512dq -mavx512vl
    -Wno-maybe-uninitialized -Wno-uninitialized)
  set(ptmkernels_flags_avx512_bf16 ${ptmkernels_flags_avx512} -mavx512bf16)
endif()

function(ptmkernels_cpu_variants target folder)
  foreach(variant ${ptmkernels_variants})
    set(source ${folder}/variant_${variant}.cpp)
    if(variant STREQUAL avx512_bf16 AND NOT EXISTS ${CMAKE_SOURCE_DIR}/${source})
      continue()
    endif()
    target_sources(${target} PRIVATE ${source})
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS
      "${ptmkernels_variant_flags};${ptmkernels_flags_${variant}}")
  endforeach()
endfunction()
