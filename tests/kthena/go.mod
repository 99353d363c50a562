module ropeway/tests/kthena

go 1.26.0
