module tidegate/compat/tidb

go 1.22
