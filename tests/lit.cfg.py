# lit configuration: tests are text files with RUN lines, checked by FileCheck. Substitutions: %moec, %build, %root.
import os
import lit.formats

config.name = "moec"
config.test_format = lit.formats.ShTest(execute_external=True)
config.suffixes = [".ir", ".lua", ".test"]
config.excludes = ["inputs", "CMakeLists.txt"]
config.test_source_root = os.path.dirname(__file__)
build = os.path.abspath(lit_config.params.get("build", "build"))
config.test_exec_root = os.path.join(build, "lit")
config.substitutions += [
    ("%moec", os.path.join(build, "moec")),
    ("%build", build),
    ("%root", os.path.dirname(config.test_source_root)),
]
config.environment["PATH"] = "/usr/lib/llvm-14/bin" + os.pathsep + os.environ.get("PATH", "")
config.environment["OMP_WAIT_POLICY"] = "passive"
config.environment["OMP_NUM_THREADS"] = "2"
config.environment["ASAN_OPTIONS"] = "detect_leaks=0"
