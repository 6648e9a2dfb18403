// etcd as its own release has it: the module that ships the command depends on its siblings by path, which no other module can use.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
