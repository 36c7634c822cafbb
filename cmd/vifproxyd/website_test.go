//go:build browsers

package main

import (
	"bytes"
	"html/template"
	"image"
	"image/png"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/websocket"
)

// A website is a shop as shops are today: 40 hosts of 12 sites, most of which are not the shop's.
type website struct {
	mu     sync.Mutex
	asked  map[string]bool // hosts, since the last forget
	loaded chan []string   // what was missing when a page was loaded
}

// A part is something that a page loads, in one of the ways of loader.
type part struct{ How, From string }

// shopFront is where a browser begins. It is led to the page by three redirects.
const shopFront = "http://shop.example/"

// pageParts are what pages load, by the host of the page. A path says what there is: /a.js a script, /to/HOST/… a redirect to HOST.
var pageParts = map[string][]part{
	"www.shop.example": {
		{"style", "https://static.shop.example/a.css"}, {"script", "https://static.shop.example/a.js"},
		{"script", "https://code.shop.example/a.js"}, {"worker", "https://worker.shop.example/a.js"},
		{"image", "https://img1.shop.example/a.png"}, {"image", "https://img2.shop.example/a.png"},
		{"fetch", "https://api.shop.example/basket"},
		{"image", "https://e1.cdn.example/a.png"}, {"image", "https://e2.cdn.example/a.png"}, {"image", "https://e3.cdn.example/a.png"},
		{"script", "https://libs.cdn.example/a.js"}, {"image", "https://www.edge.cdn.example/a.png"},
		{"style", "https://fonts.example/css"}, {"font", "https://files.fonts.example/a.woff2"},
		{"frame", "https://www.pay.example/"}, {"frame", "https://chat.example/"}, {"frame", "https://www.video.example/"},
		{"frame", "https://maps.example/"}, {"frame", "https://www.news.example/"},
		{"script", "https://tags.stats.example/a.js"}, {"image", "https://pixel.stats.example/to/match.ads.example/to/sync.ads.example/a.png"},
		{"beacon", "https://collect.stats.example/"}, {"image", "https://old.ads.example/a.png"},
	},
	"www.pay.example":   {{"script", "https://js.pay.example/a.js"}, {"fetch", "https://api.pay.example:8443/methods"}},
	"chat.example":      {{"socket", "wss://live.chat.example/socket"}, {"image", "https://files.chat.example/a.png"}},
	"www.video.example": {{"fetch", "https://v1.video.example/1.ts"}, {"fetch", "https://v2.video.example/2.ts"}, {"image", "https://thumbs.video.example/a.png"}},
	"maps.example":      {{"image", "https://a.tiles.maps.example/a.png"}, {"image", "https://b.tiles.maps.example/a.png"}},
	"www.news.example":  {{"events", "https://feed.news.example/events"}},
}

// websiteHosts returns all hosts, in the order of their names.
func websiteHosts() []string {
	hosts := map[string]bool{"shop.example": true, "login.id.example": true, "sso.id.example": true, // redirects
		"ocsp.trust.example": true, "issuers.trust.example": true} // for certificates
	for page, all := range pageParts {
		hosts[page] = true
		for _, p := range all {
			_, rest, _ := strings.Cut(p.From, "://")
			for i, word := range strings.Split(rest, "/") {
				if i == 0 || strings.HasSuffix(word, ".example") {
					host, _, _ := strings.Cut(word, ":")
					hosts[host] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(hosts))
}

// serveWebsite has the lab's origins be the website.
func serveWebsite(s *site) *website {
	w := &website{loaded: make(chan []string, 1), asked: map[string]bool{}}
	s.Alias("www.edge.cdn.example", "e1.cdn.example")
	issuers, err := s.HideIssuer("old.ads.example", "issuers.trust.example")
	s.must(err)
	others := map[string]http.Handler{
		"ocsp.trust.example": s.NameResponder("ocsp.trust.example"), "issuers.trust.example": issuers,
		"live.chat.example": websocket.Handler(func(c *websocket.Conn) { io.Copy(c, c) }), //nolint:errcheck // until the browser goes
	}
	for _, host := range websiteHosts() {
		next := others[host]
		if next == nil {
			next = http.HandlerFunc(w.serve)
		}
		s.Serve(host, http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			w.mu.Lock()
			w.asked[host] = true
			w.mu.Unlock()
			next.ServeHTTP(rw, r)
		}))
	}
	return w
}

// forget forgets which hosts were asked.
func (w *website) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.asked)
}

// missing returns the hosts that nobody has asked.
func (w *website) missing() (hosts []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, host := range websiteHosts() {
		if !w.asked[host] {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// picture is a PNG of one pixel.
var picture = func() string {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 1, 1))); err != nil {
		panic(err)
	}
	return b.String()
}()

func (w *website) serve(rw http.ResponseWriter, r *http.Request) {
	host, _, _ := strings.Cut(r.Host, ":")
	rw.Header().Set("Access-Control-Allow-Origin", "*")
	rw.Header().Set("Cache-Control", "no-store")
	if _, rest, ok := strings.Cut(r.URL.Path, "/to/"); ok { // /to/HOST/PATH
		http.Redirect(rw, r, "https://"+rest, http.StatusFound)
		return
	}
	switch to := signIn[host]; {
	case r.URL.Path == "/loaded":
		select {
		case w.loaded <- r.URL.Query()["missing"]:
		default:
		}
	case r.TLS == nil && host == "shop.example":
		http.Redirect(rw, r, "https://shop.example/", http.StatusMovedPermanently)
	case to != "":
		http.Redirect(rw, r, "https://"+to, http.StatusFound)
	case host == "www.shop.example" && r.URL.Path == "/" && r.URL.Query().Get("ticket") == "":
		http.Redirect(rw, r, "https://login.id.example/", http.StatusFound)
	case strings.HasSuffix(r.URL.Path, ".js"):
		write(rw, "text/javascript", "self.document || (onmessage = e => postMessage(e.data))")
	case strings.HasSuffix(r.URL.Path, "css"):
		write(rw, "text/css", "body { color: black }")
	case strings.HasSuffix(r.URL.Path, ".png"):
		write(rw, "image/png", picture)
	case r.URL.Path == "/events":
		write(rw, "text/event-stream", "data: news\n\n")
	case pageParts[host] != nil && r.URL.Path == "/":
		rw.Header().Set("Content-Type", "text/html")
		page.Execute(rw, pageParts[host]) //nolint:errcheck // the browser may have gone
	default:
		write(rw, "text/plain", "hello from "+host)
	}
}

// signIn is where a browser is led to, by the host where it is.
var signIn = map[string]string{"shop.example": "www.shop.example/", "login.id.example": "sso.id.example/",
	"sso.id.example": "www.shop.example/?ticket=1"}

func write(w http.ResponseWriter, kind, body string) {
	w.Header().Set("Content-Type", kind)
	io.WriteString(w, body) //nolint:errcheck // the browser may have gone
}

// page loads its parts, and says which of them do not come: to the page around it, or to its host.
var page = template.Must(template.New("page").Parse(`<!DOCTYPE html><title>a page</title><body><script>
const element = (kind, set) => new Promise((ok, no) => {
	const e = Object.assign(document.createElement(kind), set)
	e.onload = ok
	e.onerror = no
	document.body.append(e)
})
const tellers = {}
onmessage = e => tellers[e.origin]?.(e.data)
const loader = {
	image: src => element("img", {src}),
	script: src => element("script", {src}),
	style: href => element("link", {rel: "stylesheet", href}),
	fetch: u => fetch(u).then(r => r.ok || Promise.reject(r.status)),
	font: u => fetch(u).then(r => r.ok || Promise.reject(r.status)),
	beacon: u => navigator.sendBeacon(u, "seen") || Promise.reject("not queued"),
	worker: u => new Promise((ok, no) => {
		const w = new Worker(URL.createObjectURL(new Blob(["importScripts(" + JSON.stringify(u) + ")"])))
		w.onmessage = ok
		w.onerror = no
		w.postMessage("hello")
	}),
	socket: u => new Promise((ok, no) => {
		const s = new WebSocket(u)
		s.onopen = () => s.send("hello")
		s.onmessage = ok
		s.onerror = no
	}),
	events: u => new Promise((ok, no) => {
		const s = new EventSource(u)
		s.onmessage = () => ok(s.close())
		s.onerror = () => no(s.close())
	}),
	frame: src => new Promise((ok, no) => {
		document.body.append(Object.assign(document.createElement("iframe"), {src}))
		tellers[new URL(src).origin] = missing => missing.length ? no(missing.join(" ")) : ok()
	}),
}
const late = seconds => new Promise((_, no) => setTimeout(() => no("it is late"), seconds * 1000))
Promise.all({{.}}.map(p => Promise.race([loader[p.How](p.From), late(parent != window ? 30 : 60)])
	.then(() => "", e => p.From + (typeof e == "string" ? " (" + e + ")" : ""))))
	.then(all => all.filter(m => m))
	.then(missing => parent != window ? parent.postMessage(missing, "*") :
		fetch("/loaded?" + new URLSearchParams(missing.map(m => ["missing", m]))))
</script>`))
