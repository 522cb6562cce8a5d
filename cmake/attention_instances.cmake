# The kernels of csrc/attention/cuda/instance.h, one translation unit for each type and padded head
# dimension, so that they compile in parallel.

# ptmkernels_attention_instances(<variable> <extension> <type-head_dim>...): generated sources.
function(ptmkernels_attention_instances variable extension)
  set(sources)
  foreach(instance IN LISTS ARGN)
    string(REPLACE "-" ";" parts ${instance})
    list(GET parts 0 type)
    list(GET parts 1 head_dim)
    if(NOT type STREQUAL "float")
      set(type "ptmkernels::${type}")
    endif()
    set(source "${CMAKE_CURRENT_BINARY_DIR}/attention_instances/${instance}.${extension}")
    file(CONFIGURE OUTPUT "${source}" CONTENT
      "#include \"attention/cuda/instance.cuh\"\n\ntemplate struct ptmkernels::attention::cuda::Instance<${type}, ${head_dim}>;\n")
    list(APPEND sources "${source}")
  endforeach()
  set(${variable} ${sources} PARENT_SCOPE)
endfunction()

set(PTMKERNELS_ATTENTION_INSTANCES)
foreach(type bfloat16 float16 float)
  foreach(head_dim 32 64 128 256)
    list(APPEND PTMKERNELS_ATTENTION_INSTANCES ${type}-${head_dim})
  endforeach()
endforeach()
