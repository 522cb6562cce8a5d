# torch's headers (the stable ABI only) and its library, found without importing torch.

if(NOT PTMKERNELS_TORCH_INCLUDE)
  find_package(Python REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" "${CMAKE_CURRENT_LIST_DIR}/../tools/torch_headers.py"
    OUTPUT_VARIABLE PTMKERNELS_TORCH_INCLUDE OUTPUT_STRIP_TRAILING_WHITESPACE
    RESULT_VARIABLE torch_missing)
  if(torch_missing)
    message(FATAL_ERROR "torch 2.10 or later was not found for ${Python_EXECUTABLE}: install it, or "
      "name its include folder with -DPTMKERNELS_TORCH_INCLUDE=…, then run this again.")
  endif()
endif()

file(STRINGS "${PTMKERNELS_TORCH_INCLUDE}/torch/headeronly/version.h" torch_version
  REGEX "TORCH_VERSION_(MAJOR|MINOR|PATCH) [0-9]+")
string(REGEX REPLACE "[^0-9;]" "" torch_version "${torch_version}")
string(REPLACE ";" "." PTMKERNELS_TORCH_VERSION "${torch_version}")

find_library(PTMKERNELS_TORCH_LIBRARY torch PATHS "${PTMKERNELS_TORCH_INCLUDE}/../lib"
  NO_DEFAULT_PATH REQUIRED)

# A library of torch ops. It names libtorch, through which every torch brings in what it consists of;
# at run time the one that Python has loaded already is taken.
function(ptmkernels_torch_library target)
  ptmkernels_compile_options(${target})
  target_include_directories(${target} SYSTEM PRIVATE "${PTMKERNELS_TORCH_INCLUDE}")
  target_compile_definitions(${target} PRIVATE TORCH_TARGET_VERSION=0x020a000000000000)
  target_link_options(${target} PRIVATE -Wl,--no-as-needed)
  target_link_libraries(${target} PRIVATE "${PTMKERNELS_TORCH_LIBRARY}")
  install(TARGETS ${target} EXPORT ptmkernels LIBRARY DESTINATION lib)
endfunction()
