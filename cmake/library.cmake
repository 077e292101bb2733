# The library that users link, and what `cmake --install` puts where.
#
# It is shared, and only that. All folders of src/ are merged into it and only what include/lathe declares is
# visible, so that oneDNN, protobuf, fmt and the rest stay lathe's own business: a user needs none of their
# headers, link lines or CMake packages, a program that brings another fmt does not clash with ours, and
# lathe can change what it is built from without anyone relinking. A static library would hand all of that on.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

file(GLOB api_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/api/*.cpp)
add_library(liblathe SHARED ${api_sources})
add_library(lathe::lathe ALIAS liblathe)
target_link_libraries(liblathe PRIVATE lathe_optimize)
target_include_directories(liblathe INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                           $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include/public> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(liblathe INTERFACE cxx_std_20)
# Before 1.0 a new minor version may change the interface: the soname says both numbers.
set_target_properties(liblathe PROPERTIES OUTPUT_NAME lathe EXPORT_NAME lathe
                      VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
                      CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
# The folders are compiled once, for the command, the tests and the library: what is shown is told to the linker.
target_link_options(liblathe PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/liblathe.map -Wl,--no-undefined)
set_target_properties(liblathe PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/liblathe.map)
if(LATHE_SANITIZE)
  # The sanitizers' run time is in the program, not in a library.
  target_link_options(liblathe PRIVATE -Wl,-z,undefs)
endif()

# Training is a library of its own, so that nothing else loads libtorch.
if(LATHE_HAS_TRAINING)
  file(GLOB api_train_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/api_train/*.cpp)
  add_library(liblathe_train SHARED ${api_train_sources})
  add_library(lathe::train ALIAS liblathe_train)
  target_link_libraries(liblathe_train PRIVATE lathe_train)
  target_include_directories(liblathe_train INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                             $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include/public> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(liblathe_train INTERFACE cxx_std_20)
  set_target_properties(liblathe_train PROPERTIES OUTPUT_NAME lathe_train EXPORT_NAME train VERSION ${PROJECT_VERSION}
                        SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR} CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  target_link_options(liblathe_train PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/liblathe_train.map)
  set_target_properties(liblathe_train PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/liblathe_train.map)
  install(TARGETS liblathe_train EXPORT lathe LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  install(TARGETS lathe-train RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

# Documentation and completions are printed by the command itself, so that they never lag behind it.
set(generated ${PROJECT_BINARY_DIR}/share)
set(man_page ${generated}/man/man1/lathe.1)
set(completions ${generated}/bash-completion/completions/lathe ${generated}/zsh/site-functions/_lathe
    ${generated}/fish/vendor_completions.d/lathe.fish)
foreach(file ${man_page} ${completions})
  cmake_path(GET file PARENT_PATH folder)
  file(MAKE_DIRECTORY ${folder})
endforeach()
list(GET completions 0 bash)
list(GET completions 1 zsh)
list(GET completions 2 fish)
add_custom_command(OUTPUT ${man_page} ${completions}
                   COMMAND lathe man > ${man_page} COMMAND lathe completion bash > ${bash}
                   COMMAND lathe completion zsh > ${zsh} COMMAND lathe completion fish > ${fish}
                   DEPENDS lathe VERBATIM COMMENT "Man page and completions")
add_custom_target(lathe_pages ALL DEPENDS ${man_page} ${completions})

install(TARGETS lathe RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS liblathe EXPORT lathe LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/lathe/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lathe FILES_MATCHING PATTERN "*.h")
install(FILES ${PROJECT_BINARY_DIR}/include/public/lathe/version.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lathe)
install(FILES ${man_page} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
install(DIRECTORY ${generated}/bash-completion ${generated}/zsh ${generated}/fish DESTINATION ${CMAKE_INSTALL_DATADIR})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY devices DESTINATION ${CMAKE_INSTALL_DATADIR}/lathe)
install(DIRECTORY examples DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/lathe)
install(EXPORT lathe NAMESPACE lathe:: FILE lathe-targets.cmake DESTINATION ${package_dir})
configure_package_config_file(cmake/lathe-config.cmake.in ${PROJECT_BINARY_DIR}/lathe-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/lathe-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/lathe-config.cmake ${PROJECT_BINARY_DIR}/lathe-config-version.cmake DESTINATION ${package_dir})
# pkg-config's file finds its prefix from where it lies, so that an installed tree can be moved.
file(RELATIVE_PATH up /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
configure_file(cmake/lathe.pc.in ${PROJECT_BINARY_DIR}/lathe.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/lathe.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
