"""`python -m benchmarks.advice`."""

from benchmarks.advice.study import main

main()
