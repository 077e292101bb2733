# The library that users link, and what `cmake --install` puts where.
#
# It is shared, and only that. All folders of src/ are merged into it and only what include/lathe declares is
# visible, so that oneDNN, protobuf, fmt and the rest stay lathe's own business: a user needs none of their
# headers, link lines or CMake packages, a program that brings another fmt does not clash with ours, and
# lathe can change what it is built from without anyone relinking. A static library would hand all of that on.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# lib${output}: what src/${folder} declares in include/lathe and `map` shows, over the folder target `links`.
function(lathe_shared_library target name output folder links)
  file(GLOB sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/${folder}/*.cpp)
  add_library(${target} SHARED ${sources})
  add_library(lathe::${name} ALIAS ${target})
  target_link_libraries(${target} PRIVATE ${links})
  target_include_directories(${target} INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                             $<BUILD_INTERFACE:${PROJECT_BINARY_DIR}/include/public> $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(${target} INTERFACE cxx_std_20)
  # Before 1.0 a new minor version may change the interface: the soname says both numbers.
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${output} EXPORT_NAME ${name}
                        VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}.${PROJECT_VERSION_MINOR}
                        CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
  # The folders are compiled once, for the command, the tests and the library: what is shown is told to the linker.
  target_link_options(${target} PRIVATE -Wl,--version-script=${PROJECT_SOURCE_DIR}/cmake/lib${output}.map -Wl,--no-undefined)
  set_target_properties(${target} PROPERTIES LINK_DEPENDS ${PROJECT_SOURCE_DIR}/cmake/lib${output}.map)
  if(LATHE_SANITIZE)
    # The sanitizers' run time is in the program, not in a library.
    target_link_options(${target} PRIVATE -Wl,-z,undefs)
  endif()
  install(TARGETS ${target} EXPORT lathe LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endfunction()
lathe_shared_library(liblathe lathe lathe api lathe_optimize)
# Training is a library of its own, so that nothing else loads libtorch.
if(LATHE_HAS_TRAINING)
  lathe_shared_library(liblathe_train train lathe_train api_train lathe_train)
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
