// Package process runs tinyproxy processes, one or more for an AppVM.
//
// A proxy is one process, which keeps its configuration and rules for life. Both are files in a directory of its own. The
// process starts under its own uid, and counts as started when the kernel says that it listens and handles signals. Other rules
// mean another process on another port, because tinyproxy's own reload crashes under load. So the start of a process is the
// check of its rules. The caller decides which of several processes an AppVM reaches.
//
// Nothing outlives the daemon. Proxies are children with a parent-death signal, which the kernel sends when the thread that
// forked ends (prctl(2)). So a few threads do all the forking, and live as long as the Launcher. Children of a proxy have no
// such signal; Reap finds them by uid at the next start.
//
// The daemon may be root, or another user with CAP_SETUID, CAP_SETGID, CAP_SETPCAP and CAP_KILL, as in its unit. A proxy has
// no capability in either case.
//
// This package makes and removes these files. The daemon's user can read all of them, and a proxy's gid what the proxy reads:
//
//	RUNTIME/NAME/61000/config  what tinyproxy runs with, while it runs
//	RUNTIME/NAME/61000/rules   its filter file: our copy, never the user's file
//	RUNTIME/NAME/61000/refused.html, unreached.html  what it answers if it gets no page; see errorPage
//	RUNTIME/NAME/config        symlink to the config of the process that serves the AppVM now
//	RUNTIME/NAME/pid           its pid, if the template has PidFile
//	RUNTIME/NAME/log, log.1    what the processes say; readable until Close, even after the VM has left
//
// Concurrency: a Launcher and its Proxies may be used from any goroutine, but the proxies of one AppVM start one after the
// other, and nothing is called during or after Close. Callbacks (OnDenied, OnVisit, OnAdmit, OnLogProblem, WhenDone) come from goroutines of
// this package and must not wait.
package process
