// Package complete finds what may come next in a command line: verbs, options, VMs, and hosts that VMs were refused; and for a first rule
// file, AppVMs without one.
//
// A candidate is a word, a tab, and an explanation. Nothing that a shell might act on is a candidate. VM names are harmless anyway; an
// AppVM has chosen the hosts.
//
// Concurrency: its functions may be called from any goroutine.
package complete

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"time"

	"vifproxy/control"
	"vifproxy/internal/defaults"
	"vifproxy/internal/events"
	"vifproxy/internal/terminal"
	"vifproxy/rules"
)

var (
	plainName = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)
	plainHost = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]*$`)
)

// VMs returns the VMs that the daemon knows. If the daemon cannot be asked, it returns those that have rule files in a directory, and why.
func VMs(ctx context.Context, client *control.Client, rulesDir string) (all []string, err error) {
	add := func(name, explanation string) {
		if plainName.MatchString(name) {
			all = append(all, name+"\t"+explanation)
		}
	}
	status, err := client.AppVMs(ctx)
	for _, vm := range status.VMs {
		add(vm.Name, terminal.Quote(vm.IP+", "+vm.State))
	}
	if err == nil {
		return all, nil
	}
	set, unread := rules.Read(rulesDir, filepath.Join(rulesDir, defaults.TemplateName))
	if unread != nil {
		return nil, err
	}
	for _, file := range set.Files {
		add(file.Name, file.Addr.String())
	}
	return all, err
}

// Hosts returns the hosts that a VM asked for and did not get, the newest first. With listOnly it returns those that no rule permits.
func Hosts(ctx context.Context, client *control.Client, vm string, listOnly bool) (all []string, err error) {
	denied, err := client.Denied(ctx, []string{vm}, time.Time{})
	for _, vm := range denied {
		for _, host := range vm.Hosts {
			wanted := host.Reason == events.ReasonList || !listOnly
			if wanted && plainHost.MatchString(host.Host) {
				all = append(all, fmt.Sprintf("%s\trefused %d times, last %s", host.Host, host.Count, host.Last.Local().Format(time.DateTime)))
			}
		}
	}
	return all, err
}
