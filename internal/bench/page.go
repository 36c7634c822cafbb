package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
	"time"
)

// A page with so many objects, the first few of which are scripts that the page waits for, from so many hosts.
const (
	pageObjects     = 60
	pageScripts     = 8
	pageServers     = 8
	pageObjectSize  = 20_000
	browserPatience = 20 * time.Second
)

// page measures Chromium, new and with an empty profile, from the beginning of the navigation until everything is loaded.
func (b *bench) page() (o outcome, err error) {
	browser, err := exec.LookPath("chromium")
	if errors.Is(err, exec.ErrNotFound) {
		return outcome{unit: "ms", wrong: []string{"chromium is not installed: apt-get install chromium"}}, nil
	}
	if err != nil {
		return o, err
	}
	w, err := b.ways()
	if err != nil {
		return o, err
	}
	defer w.close()
	site, err := newWebsite()
	if err != nil {
		return o, err
	}
	for _, w := range []way{w.daemon, w.hand} {
		for i := range pageServers {
			w.lab.Serve(pageServer(i), site)
		}
	}
	load := func(w way) func() (float64, error) {
		return func() (float64, error) { return b.browse(browser, w, site) }
	}
	var direct func() (float64, error)
	besides := []peer{{byHandName, load(w.hand)}}
	for _, other := range w.others {
		switch other.name {
		case noProxy:
			direct = load(other)
		case squidName:
			besides = append(besides, peer{other.name, load(other)})
		}
	}
	o, err = b.byTurns("ms", max(1, b.Runs/2), direct, load(w.daemon), besides...)
	o.notes = append(o.notes, w.notes...)
	return o, err
}

func pageServer(i int) string { return fmt.Sprintf("w%d.%s", i%pageServers+1, pageHosts) }

// website serves the page and its objects.
type website struct {
	page, script, picture string
	loaded                chan string // what a page says when it is loaded
}

// newWebsite makes a page which, when all is loaded, asks for /loaded, with the milliseconds since the beginning of the navigation
// and the number of objects that came.
func newWebsite() (*website, error) {
	noise := image.NewRGBA(image.Rect(0, 0, 70, 70)) // which does not compress, so it takes what an object has
	random := rand.New(rand.NewPCG(1, 1))
	for i := range noise.Pix {
		noise.Pix[i] = byte(random.Uint32())
	}
	var picture bytes.Buffer
	if err := png.Encode(&picture, noise); err != nil {
		return nil, err
	}
	var page strings.Builder
	page.WriteString("<!DOCTYPE html><title>a page</title>\n")
	for i := range pageObjects {
		if i < pageScripts {
			fmt.Fprintf(&page, "<script src=\"https://%s/%d.js\"></script>\n", pageServer(i), i)
		} else {
			fmt.Fprintf(&page, "<img src=\"https://%s/%d.png\">\n", pageServer(i), i)
		}
	}
	page.WriteString(`<script>onload = () => fetch("/loaded?" + performance.now() + "+" +
	(came + [...document.images].filter(i => i.naturalWidth > 0).length))</script>`)
	const comment = "// a line of a script that says nothing\n"
	return &website{
		page: page.String(), picture: picture.String(), loaded: make(chan string, 1),
		script: "window.came = (window.came || 0) + 1\n" + strings.Repeat(comment, pageObjectSize/len(comment)),
	}, nil
}

func (s *website) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, kind := s.page, "text/html"
	switch path.Ext(r.URL.Path) {
	case ".js":
		body, kind = s.script, "text/javascript"
	case ".png":
		body, kind = s.picture, "image/png"
	}
	if r.URL.Path == "/loaded" {
		select {
		case s.loaded <- r.URL.RawQuery:
		default:
		}
	}
	w.Header().Set("Content-Type", kind)
	io.WriteString(w, body) //nolint:errcheck // the browser may have been ended
}

// browse loads the page in a new Chromium.
func (b *bench) browse(browser string, w way, site *website) (took float64, err error) {
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	home, err := os.MkdirTemp(inMemory(), "vifproxy-bench-chromium-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(home)
	proxy := "--no-proxy-server"
	if w.proxy.IsValid() {
		proxy = "--proxy-server=http://" + w.proxy.String()
	}
	// Chromium's sandbox is for users who are not root, and nothing here is a stranger's. Without the port for debuggers it
	// would end with the page.
	cmd := w.lab.VMCommand(ctx, crowd, browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--ignore-certificate-errors",
		"--remote-debugging-port=0", "--user-data-dir="+home, proxy, "https://"+pageServer(0)+"/")
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + home, "TMPDIR=" + home}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = browserPatience // then it is killed
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	var loaded string
	select {
	case loaded = <-site.loaded:
	case <-time.After(browserPatience):
	case <-b.ctx.Done():
	}
	cancel()
	cmd.Wait() //nolint:errcheck // it was ended
	var objects int
	if _, err := fmt.Sscanf(loaded, "%g+%d", &took, &objects); err != nil || objects != pageObjects {
		return 0, fmt.Errorf("chromium has loaded %q; it said: %.2000s", loaded, said.Bytes())
	}
	return took, nil
}
