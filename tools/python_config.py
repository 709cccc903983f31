"""The two answers of python3-config that README.md asks for, of the interpreter that runs this."""

import sys
import sysconfig

if "--includes" in sys.argv:
    print(f"-I{sysconfig.get_paths()['include']}")
if "--extension-suffix" in sys.argv:
    print(sysconfig.get_config_var("EXT_SUFFIX"))
