package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"vifproxy/internal/browsers"
	"vifproxy/internal/regular"
	"vifproxy/internal/settings"
)

const (
	serviceFlag = "/run/qubes-service/vifproxy" // `qvm-service NAME vifproxy on` in dom0

	probeInterval = 500 * time.Millisecond
	probeTime     = 20 * time.Second // for a proxy to come; the start of the session waits for one probe only
	fileMax       = 1 << 20          // of what is read of a file that may be ours
)

// A setup is where settings are written.
type setup struct {
	log     *slog.Logger
	root    string // in front of each path; empty in a VM
	gateway func(context.Context) (string, error)
	answers func(ctx context.Context, p browsers.Proxy) bool
	port    int
	wait    time.Duration // for a proxy to come
}

// run writes the settings if the VM has a proxy, and otherwise removes what an earlier run has written. The session may begin as soon as
// it calls ready. A proxy that answers later than that is found too, if it is not much later.
func (s setup) run(ctx context.Context, ready func()) error {
	_, err := os.Stat(filepath.Join(s.root, serviceFlag))
	flagged := err == nil
	deadline := time.Now().Add(s.wait)
	for first := true; ; first = false {
		address, err := s.gateway(ctx)
		proxy := browsers.Proxy{Host: address, Port: s.port}
		if err == nil && (flagged || s.answers(ctx, proxy)) {
			return s.write(proxy)
		}
		if first {
			if err := s.remove(); err != nil {
				return err
			}
			ready()
		}
		if errors.Is(err, errNoClient) {
			s.log.Info("nothing is set up", "why", err)
			return nil
		}
		if time.Now().After(deadline) {
			if flagged && err != nil {
				return fmt.Errorf("this VM has the service vifproxy, but its gateway is not known: %w", err)
			}
			s.log.Info("nothing is set up: no proxy answers at the gateway", "gateway", address, "port", s.port, "error", err)
			return nil
		}
		select {
		case <-time.After(probeInterval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// write writes each file, but none that is not ours.
func (s setup) write(proxy browsers.Proxy) error {
	files, err := settings.Files(proxy)
	if err != nil {
		return err
	}
	var failed []error
	for _, f := range files {
		if f.Only != "" {
			if _, err := os.Stat(filepath.Join(s.root, f.Only)); err != nil {
				continue
			}
		}
		ours, exists, err := s.isOurs(f.Path)
		stays := f.Path
		if hidden := slices.IndexFunc(f.Hides, func(path string) bool { _, err := os.Stat(filepath.Join(s.root, path)); return err == nil }); hidden >= 0 {
			stays = f.Hides[hidden]
		} else if ours || !exists {
			stays = ""
		}
		switch {
		case err != nil:
			failed = append(failed, err)
		case stays != "":
			s.log.Warn("a file that is not of vifproxy-client stays as it is, for "+f.For+". If it lacks the proxy, write into it what "+
				"`vifproxy-client settings "+f.Format+"` prints", "file", stays, "proxy", proxy.String())
		default:
			failed = append(failed, replace(filepath.Join(s.root, f.Path), sign(f)))
		}
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	s.log.Info("programs of this VM use the proxy", "proxy", proxy.String())
	return nil
}

// remove removes each file of ours that nobody has changed.
func (s setup) remove() error {
	files, err := settings.Files(browsers.Proxy{})
	if err != nil {
		return err
	}
	var failed []error
	for _, f := range files {
		ours, _, err := s.isOurs(f.Path)
		if err == nil && ours {
			err = os.Remove(filepath.Join(s.root, f.Path))
			s.log.Info("removed", "file", f.Path)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// isOurs reports whether a file exists, and whether an earlier run has written it as it is now.
func (s setup) isOurs(path string) (ours, exists bool, err error) {
	file, _, err := regular.Open(filepath.Join(s.root, path), os.O_RDONLY, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, false, nil
	case errors.Is(err, regular.ErrNotRegular):
		return false, true, nil
	case err != nil:
		return false, false, err
	}
	defer file.Close()
	text, err := regular.ReadAll(file, fileMax)
	return signed(text), true, err
}

// A line of each file names the checksum of its other lines. So a file that a person has changed is not ours any more, wherever it was
// kept meanwhile.
const signature = "vifproxy-client writes and removes this file, as long as nobody changes it: "

var signatureLine = regexp.MustCompile(`(?m)^.*` + signature + `([0-9a-f]{64}).*\n`)

// sign returns the text of a file with its signature: in a comment, or in JSON in a member that browsers do not know.
func sign(f settings.File) []byte {
	sum := sha256.Sum256([]byte(f.Text))
	line := signature + hex.EncodeToString(sum[:])
	if f.Comment != "" {
		return []byte(f.Comment + " " + line + "\n" + f.Text)
	}
	return bytes.Replace([]byte(f.Text), []byte("{\n"), fmt.Appendf(nil, "{\n  \"//\": %q,\n", line), 1)
}

// signed reports whether a text has the signature of what it is.
func signed(text []byte) bool {
	at := signatureLine.FindSubmatchIndex(text)
	if at == nil {
		return false
	}
	sum := sha256.Sum256(append(bytes.Clone(text[:at[0]]), text[at[1]:]...))
	return hex.EncodeToString(sum[:]) == string(text[at[2]:at[3]])
}

// replace writes a file that all may read. A reader sees the old one or the new one.
func replace(path string, text []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	// The programs that read the directory pass over a name that begins with a dot.
	file, err := os.CreateTemp(dir, ".vifproxy-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(file.Name())
		}
	}()
	_, err = file.Write(text)
	if err = errors.Join(err, file.Chmod(0o644), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}

// reloadTimeout is for systemd to read its configuration again.
const reloadTimeout = 30 * time.Second

// reload has systemd read the variables for the services that start from now on.
func reload(ctx context.Context, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, reloadTimeout)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "systemctl", "daemon-reload").CombinedOutput(); err != nil {
		log.Warn("services of the system do not know the proxy until the next `systemctl daemon-reload`", "error", err, "output", string(out))
	}
}

// start runs the setup as a unit of systemd: it ends when all is written, or when no proxy has come.
func (s setup) start(ctx context.Context) error {
	ready := func() { daemon.SdNotify(false, daemon.SdNotifyReady) } //nolint:errcheck // there may be no systemd
	defer ready()
	if err := s.run(ctx, ready); err != nil {
		return err
	}
	if _, err := os.Stat("/run/systemd/system"); err == nil && s.root == "" {
		reload(ctx, s.log)
	}
	return nil
}
