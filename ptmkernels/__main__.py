from ptmkernels.cli import main

main()
