# find_package(ptmkernels) for C++ users; the same files lie in the installed Python package
# (`ptmkernels info --cmake-prefix` prints where).

include(CMakePackageConfigHelpers)
set(package_dir lib/cmake/ptmkernels)
install(DIRECTORY csrc/api/ptmkernels DESTINATION include)
install(EXPORT ptmkernels NAMESPACE ptmkernels:: DESTINATION ${package_dir} FILE ptmkernelsTargets.cmake)
configure_package_config_file(cmake/ptmkernelsConfig.cmake.in ptmkernelsConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(ptmkernelsConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES
  ${CMAKE_CURRENT_BINARY_DIR}/ptmkernelsConfig.cmake
  ${CMAKE_CURRENT_BINARY_DIR}/ptmkernelsConfigVersion.cmake
  DESTINATION ${package_dir})

# What the libraries were built with, for `ptmkernels info`.
if(PTMKERNELS_WITH_CUDA)
  set(cuda_compiler "nvcc ${CMAKE_CUDA_COMPILER_VERSION}")
  set(cuda_architectures "${PTMKERNELS_CUDA_ARCHS}")
endif()
configure_file(cmake/build.json.in build.json @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/build.json DESTINATION lib)
