package main

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// tree is a page, and what it draws on: other pages, of which some draw on more.
type tree struct {
	host  string
	port  int
	needs []tree
}

// url returns the address of a page that names all below it.
func (p tree) url() string {
	scheme, host := "https", p.host
	switch p.port {
	case 80:
		scheme = "http"
	case 443:
	default:
		host = net.JoinHostPort(p.host, strconv.Itoa(p.port))
	}
	query := url.Values{}
	for _, n := range p.needs {
		query.Add("needs", n.url())
	}
	return (&url.URL{Scheme: scheme, Host: host, Path: "/page", RawQuery: query.Encode()}).String()
}

// hosts returns HOST:PORT of the page and of all below it.
func (p tree) hosts() map[string]bool {
	all := map[string]bool{net.JoinHostPort(p.host, strconv.Itoa(p.port)): true}
	for _, n := range p.needs {
		maps.Copy(all, n.hosts())
	}
	return all
}

var script = regexp.MustCompile(`<script src="([^"]*)">`)

// browse loads a page as a browser does, with all that the pages which come name, and returns HOST:PORT of what did not come.
func (s *site) browse(client *http.Client, page string) map[string]bool {
	s.Helper()
	missing := map[string]bool{}
	at, err := url.Parse(page)
	s.must(err)
	port := at.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[at.Scheme]
	}
	response, err := client.Get(page)
	if err == nil {
		defer response.Body.Close()
	}
	if err != nil || response.StatusCode != http.StatusOK {
		missing[net.JoinHostPort(at.Hostname(), port)] = true
		return missing
	}
	body, err := io.ReadAll(response.Body)
	s.must(err)
	for _, needed := range script.FindAllSubmatch(body, -1) {
		maps.Copy(missing, s.browse(client, strings.ReplaceAll(string(needed[1]), "&amp;", "&")))
	}
	return missing
}

// A page that needs twelve hosts at three ports works in the end, by `denied` and `allow` alone, with two commands for each
// time that it is loaded; and nothing is allowed but what it needs, whatever its browser asks for meanwhile.
func TestAPageIsMadeToWorkByDeniedAndAllow(t *testing.T) {
	onBoth(t, func(s *site) {
		page := tree{"bank.example", 80, []tree{
			{"www.bank.example", 443, []tree{
				{"static.bank-cdn.example", 443, []tree{{"fonts.example", 443, nil}, {"icons.example", 80, nil}}},
				{"api.bank.example", 8443, []tree{{"push.bank.example", 8443, nil}}},
				{"login.bank.example", 443, nil},
			}},
			{"cdn.example", 443, nil}, {"images.example", 80, nil}, {"maps.example", 443, nil}, {"pay.example", 8443, nil},
		}}
		needed := page.hosts()
		if len(needed) != 12 {
			t.Fatalf("the page needs %d hosts", len(needed))
		}
		s.rules("social.10.137.0.11", "#: format domains")
		s.start()
		s.attach("social", "10.137.0.11")
		s.until("it has a proxy", func() error {
			if r := s.Get("social", "http://detectportal.firefox.com/"); r.Status != 403 { // no page needs it
				return fmt.Errorf("%d, %v", r.Status, r.Err)
			}
			return nil
		})
		loads, commands := 0, 0
		for {
			missing := s.browse(s.Client("social"), page.url())
			loads++
			if len(missing) == 0 {
				break
			}
			if loads > len(needed) {
				t.Fatalf("after %d commands the page still misses %v", commands, missing)
			}
			s.refuses("social", "http://aus5.mozilla.org/") // so does its browser, at any time
			allow := []string{"allow", "social"}
			s.until("denied has what the page misses", func() error {
				allow = allow[:2]
				found := map[string]bool{}
				for _, d := range s.denied("social")["social"].Hosts {
					if to := net.JoinHostPort(d.Host, strconv.Itoa(int(d.Port))); d.Browser == "" {
						if missing[to] { // else it is allowed since
							allow = append(allow, to)
						}
						found[to] = true
					}
				}
				for to := range missing {
					if !found[to] {
						return fmt.Errorf("it lacks %s", to)
					}
				}
				for to := range found {
					if !needed[to] {
						t.Errorf("no page needs %s", to)
					}
				}
				return nil
			})
			if out, errs, status := s.ctl(allow...); status != 0 {
				t.Fatalf("%v: exit status %d\n%s%s", allow, status, out, errs)
			}
			commands += 2
		}
		t.Logf("%d hosts, the page loaded %d times, %d commands", len(needed), loads, commands)
		if depth := 4; loads != depth+1 || commands != 2*depth {
			t.Errorf("the page was loaded %d times, with %d commands between", loads, commands)
		}
		var want []string
		for to := range needed {
			want = append(want, strings.TrimSuffix(strings.TrimSuffix(to, ":80"), ":443"))
		}
		text, err := os.ReadFile(filepath.Join(s.rulesDir(), "social.10.137.0.11"))
		s.must(err)
		got := strings.Fields(strings.TrimPrefix(string(text), "#: format domains\n"))
		slices.Sort(want)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("allowed are\n%v, the page needs\n%v", got, want)
		}
		s.stop()
	})
}
