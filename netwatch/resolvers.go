package netwatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/fsnotify/fsnotify"
)

// Resolvers returns the addresses that programs here send their questions for names to, in the order of
// resolv.conf(5). Where that names none, or is not there, it is the machine itself.
func Resolvers(path string) ([]netip.Addr, error) {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read resolvers: %w", err)
	}
	var all []netip.Addr
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		if addr, err := netip.ParseAddr(words[1]); err == nil {
			all = append(all, addr.Unmap().WithZone(""))
		}
	}
	if all == nil {
		all = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	}
	return all, nil
}

// WatchResolvers calls wake after what may have changed what Resolvers returns, until ctx ends. The path may be a
// symbolic link, as systemd-resolved and NetworkManager make it, or mounted over, as `ip netns exec` does.
func WatchResolvers(ctx context.Context, log *slog.Logger, path string, wake func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch resolvers: %w", err)
	}
	defer watcher.Close()
	// Errors must be taken at any time, the watcher may hold the lock that its Add needs.
	lost := make(chan error, 1)
	go func() {
		for err := range watcher.Errors {
			select {
			case lost <- err:
			default:
			}
		}
	}()
	var files []string
	renew := func() {
		files = []string{path}
		if target, err := filepath.EvalSymlinks(path); err == nil && target != path {
			files = append(files, target)
		}
		for _, file := range files {
			for _, watched := range []string{filepath.Dir(file), file} {
				_ = watcher.Remove(watched) // it belongs to what was there then, if to anything
				if err := watcher.Add(watched); err != nil && !errors.Is(err, fs.ErrNotExist) {
					log.Warn("changes of resolvers are seen at the next regular look only", "err", err)
				}
			}
		}
		wake()
	}
	renew()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			renew()
		case event := <-watcher.Events:
			// A read is no event. Add and Remove above make none either, so this comes to rest.
			if slices.Contains(files, filepath.Clean(event.Name)) && !event.Has(fsnotify.Chmod) {
				renew()
			}
		}
	}
}
