package wire

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

var addr = netip.MustParseAddr("93.184.216.34")

var orders = []Order{
	{Settings: &Settings{Servers: []netip.Addr{addr}, Search: []string{"lan"}, Dots: 1, Hosts: []Host{{addr, []string{"a", "b"}}}, PinHosts: true, Domain: "x"}},
	{Open: &Gate{ID: 1, UID: 2, At: addr, Language: "ere", Lines: []string{`^a\.é<&>$`}, Openings: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}},
	{Close: 1}, {Pinned: &Done{1, true}}, {Judged: &Judged{ID: 1}}, {Ask: &Question{1, 0, "bank.example"}},
}

var reports = []Report{
	{Ready: true}, {Opened: 1}, {Closed: 1},
	{Pin: &Pin{1, 2, []netip.Addr{addr, netip.MustParseAddr("2606:2800::1")}, 90}},
	{Unpin: &Pin{UID: 2, Addrs: []netip.Addr{addr}}},
	{Judge: &Doubt{1, 2, "bank.example"}},
	{Answer: &Answer{ID: 1, Addrs: []netip.Addr{addr}, TTL: 3}}, {Answer: &Answer{ID: 1, Failure: Silent, Why: "192.0.2.1 is silent"}},
	{Event: &Event{UID: 2, Failure: Owned, Name: `\000.example`, Type: "TXT", Count: 3}},
}

// What is encoded is decoded again, and the end of the stream is told from an end in the middle.
func TestRoundTrip(t *testing.T) {
	var stream bytes.Buffer
	encoder, decoder := NewEncoder[Order](&stream), NewDecoder[Order](&stream)
	for _, want := range orders {
		if err := encoder.Encode(want); err != nil {
			t.Fatal(err)
		}
		if got, err := decoder.Decode(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	back, forth := NewEncoder[Report](&stream), NewDecoder[Report](&stream)
	for _, want := range reports {
		if err := back.Encode(want); err != nil {
			t.Fatal(err)
		}
		if got, err := forth.Decode(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, %v, want %+v", got, err, want)
		}
	}
	if _, err := forth.Decode(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	stream.WriteString(`{"Ready":true}`)
	if _, err := forth.Decode(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("in the middle: %v", err)
	}
}

// refused are lines that are no report.
var refused = []string{
	``, `null`, `{}`, `[]`, `{"Ready":false}`, `{"Ready":true}{"Ready":true}`, `{"Ready":true} x`, `{"Ready":true,"Opened":1}`, `{"Opened":"1"}`,
	`{"Opened":1e30}`, `{"Open":{"ID":1}}`, `{"Pin":{"ID":1,"UID":2,"Addrs":["93.184.216.34"],"Seconds":60,"More":1}}`,
	`{"Pin":{"ID":1,"UID":2,"Addrs":[],"Seconds":60}}`, `{"Pin":{"ID":1,"UID":2,"Addrs":["93.184.216.34"],"Seconds":0}}`,
	`{"Pin":{"ID":1,"UID":2,"Addrs":["93.184.216.34"],"Seconds":3601}}`, `{"Pin":{"ID":0,"UID":2,"Addrs":["93.184.216.34"],"Seconds":60}}`,
	`{"Pin":{"ID":1,"UID":-2,"Addrs":["93.184.216.34"],"Seconds":60}}`, `{"Pin":{"ID":1,"UID":2,"Addrs":["x"],"Seconds":60}}`,
	`{"Pin":{"ID":1,"UID":2,"Addrs":[""],"Seconds":60}}`, `{"Pin":{"ID":1,"UID":2,"Addrs":["fe80::1%lo"],"Seconds":60}}`,
	`{"Pin":{"ID":1,"UID":2,"Addrs":["::ffff:10.0.0.1"],"Seconds":60}}`,
	`{"Pin":{"ID":1,"UID":2,"Addrs":["1.1.1.1"` + strings.Repeat(`,"1.1.1.1"`, AddrsMax) + `],"Seconds":60}}`,
	`{"Unpin":{"ID":1,"UID":2,"Addrs":["93.184.216.34"]}}`, `{"Unpin":{"UID":2,"Addrs":["93.184.216.34"],"Seconds":1}}`,
	`{"Judge":{"ID":0,"Gate":1,"Name":"x"}}`, `{"Judge":{"ID":1,"Gate":1,"Name":"a\nb"}}`, `{"Judge":{"ID":1,"Gate":1,"Name":"é"}}`,
	`{"Answer":{"ID":1}}`, `{"Answer":{"ID":1,"Failure":"else"}}`, `{"Answer":{"ID":1,"Addrs":["1.1.1.1"],"Failure":"silent"}}`,
	`{"Answer":{"ID":1,"Addrs":["1.1.1.1"],"TTL":-1}}`, `{"Event":{"UID":1,"Failure":"","Count":1}}`, `{"Event":{"UID":1,"Failure":"owned","Count":0}}`,
	`{"Event":{"UID":1,"Failure":"owned","Count":1,"Name":"` + strings.Repeat("x", textMax+1) + `"}}`,
}

func TestWhatIsNoReport(t *testing.T) {
	for _, line := range refused {
		if r, err := NewDecoder[Report](strings.NewReader(line + "\n")).Decode(); err == nil {
			t.Errorf("%s is taken for %+v", line, r)
		}
	}
	for _, line := range []string{`{}`, `{"Close":1,"Ask":{"ID":1}}`, `{"Ready":true}`} {
		if o, err := NewDecoder[Order](strings.NewReader(line + "\n")).Decode(); err == nil {
			t.Errorf("%s is taken for %+v", line, o)
		}
	}
	if err := NewEncoder[Report](io.Discard).Encode(Report{Ready: true, Closed: 1}); err == nil {
		t.Error("a report of two fields is sent")
	}
}

// A message is read as far as the bound, and the next fits again.
func TestMessagesAreBounded(t *testing.T) {
	list := Order{Open: &Gate{ID: 1, Lines: []string{strings.Repeat("x", 1<<20)}}}
	var stream bytes.Buffer
	if err := NewEncoder[Order](&stream).Encode(list); err != nil {
		t.Fatal(err)
	}
	long := stream.String()
	decoder := NewDecoder[Order](strings.NewReader(long + `{"Close":2}` + "\n"))
	if got, err := decoder.Decode(); err != nil || !reflect.DeepEqual(got, list) {
		t.Errorf("an order of 1 MiB: %v", err)
	}
	if got, err := decoder.Decode(); err != nil || got.Close != 2 || cap(decoder.line) > keptMax {
		t.Errorf("the next: %v, %v, a buffer of %d bytes", got, err, cap(decoder.line))
	}
	endless := &counted{}
	if _, err := NewDecoder[Report](endless).Decode(); err == nil || endless.read > ReportMax+1<<16 {
		t.Errorf("%d bytes were read of a report without end: %v", endless.read, err)
	}
}

// counted is a line without an end.
type counted struct{ read int }

func (c *counted) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	c.read += len(p)
	return len(p), nil
}

// No line makes the decoder panic, and what it takes is sent and read again as it is.
func FuzzReport(f *testing.F) {
	for _, line := range refused {
		f.Add([]byte(line + "\n"))
	}
	var seed bytes.Buffer
	encoder := NewEncoder[Report](&seed)
	for _, r := range reports {
		if err := encoder.Encode(r); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		for decoder := NewDecoder[Report](bytes.NewReader(stream)); ; {
			r, err := decoder.Decode()
			if err != nil {
				return
			}
			var again bytes.Buffer
			if err := NewEncoder[Report](&again).Encode(r); err != nil {
				t.Fatalf("%+v cannot be sent: %v", r, err)
			}
			if back, err := NewDecoder[Report](&again).Decode(); err != nil || !reflect.DeepEqual(back, r) {
				t.Fatalf("%+v became %+v, %v", r, back, err)
			}
		}
	})
}

func FuzzOrder(f *testing.F) {
	var seed bytes.Buffer
	encoder := NewEncoder[Order](&seed)
	for _, o := range orders {
		if err := encoder.Encode(o); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(seed.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		for decoder := NewDecoder[Order](bytes.NewReader(stream)); ; {
			if _, err := decoder.Decode(); err != nil {
				return
			}
		}
	})
}
