# Every option of the build. Those with an environment variable of the same name can be set through
# pip, too: PTMKERNELS_BUILD_CUDA=0 pip install --no-build-isolation . (and PTMKERNELS_BUILD_TYPE, CMake's
# build type, and PTMKERNELS_BUILD_DIR, the folder to build in).

set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")

# ptmkernels_option(NAME default "help"): a cache variable that the environment may set.
function(ptmkernels_option name default help)
  if(DEFINED ENV{${name}})
    set(default "$ENV{${name}}")
  endif()
  set(${name} "${default}" CACHE STRING "${help}")
endfunction()

ptmkernels_option(PTMKERNELS_BUILD_CUDA auto "Build the CUDA library: auto (if nvcc is found), 0, 1")
ptmkernels_option(PTMKERNELS_CUDA_ARCHS "80-real;90a-real;80-virtual"
  "CUDA architectures: <number>-real is machine code, <number>-virtual is PTX")
ptmkernels_option(PTMKERNELS_SANITIZE "" "Sanitizers: address;undefined or thread")
ptmkernels_option(PTMKERNELS_TORCH_INCLUDE "" "The include folder of torch 2.10 or later")
option(PTMKERNELS_BUILD_PYTHON "Build the Python module of the corpus tools" OFF)

# nvcc decides, not a visible GPU and not the installed torch.
set(PTMKERNELS_WITH_CUDA OFF)
if(NOT PTMKERNELS_BUILD_CUDA STREQUAL "0")
  find_program(PTMKERNELS_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin /usr/local/cuda/bin)
  if(PTMKERNELS_NVCC)
    set(PTMKERNELS_WITH_CUDA ON)
  elseif(PTMKERNELS_BUILD_CUDA STREQUAL "1")
    message(FATAL_ERROR "PTMKERNELS_BUILD_CUDA=1, but nvcc was not found: install the CUDA toolkit "
      "(12.8 or later), set CUDA_HOME to where it lies, or set PTMKERNELS_BUILD_CUDA=auto.")
  endif()
endif()
message(STATUS "ptmkernels: CUDA library ${PTMKERNELS_WITH_CUDA}")

# Include folder, warnings and sanitizers, the same for every target.
function(ptmkernels_compile_options target)
  target_include_directories(${target} PRIVATE "${CMAKE_SOURCE_DIR}/csrc")
  target_compile_features(${target} PRIVATE cxx_std_20)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wno-unused-parameter -Wno-psabi>)
  if(PTMKERNELS_SANITIZE)
    string(REPLACE ";" "," sanitizers "${PTMKERNELS_SANITIZE}")
    target_compile_options(${target} PRIVATE
      $<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${sanitizers} -fno-omit-frame-pointer -g>)
    target_link_options(${target} PRIVATE -fsanitize=${sanitizers})
  endif()
endfunction()
