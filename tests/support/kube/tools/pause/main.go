// The container that holds a pod's namespaces: it waits to be ended, and takes leave of the pod's orphans.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// A parent that ignores this signal has no zombies.
	signal.Ignore(syscall.SIGCHLD)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT, syscall.SIGTERM)
	<-stop
}
