# The kernels of csrc/attention/cuda/instance.h: one translation unit for each type and padded head
# dimension, and one for each type's gradient of a bias, so that they compile in parallel.

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
    if(head_dim STREQUAL "bias")
      set(header "bias_instance")
      set(instantiated "BiasInstance<${type}>")
    else()
      set(header "instance")
      set(instantiated "Instance<${type}, ${head_dim}>")
    endif()
    set(source "${CMAKE_CURRENT_BINARY_DIR}/attention_instances/${instance}.${extension}")
    file(CONFIGURE OUTPUT "${source}" CONTENT
      "#include \"attention/cuda/${header}.cuh\"\n\ntemplate struct ptmkernels::attention::cuda::${instantiated};\n")
    list(APPEND sources "${source}")
  endforeach()
  set(${variable} ${sources} PARENT_SCOPE)
endfunction()

set(PTMKERNELS_ATTENTION_INSTANCES)
foreach(type bfloat16 float16 float)
  foreach(head_dim 32 64 128 256 bias)
    list(APPEND PTMKERNELS_ATTENTION_INSTANCES ${type}-${head_dim})
  endforeach()
endforeach()
