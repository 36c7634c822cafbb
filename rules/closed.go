package rules

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"vifproxy/internal/lease"
	"vifproxy/rules/flaws"
)

// Half of a list is a valid list, and half of a template may open what the whole one closes. So the daemon believes a file only
// if nobody has it open for writing. If that cannot be known, or the last line has no end, the file has to have been quiet too.

// quiet is how old the last change of a file must be if its end is in doubt. A program that opens a file again and again to write
// it does so faster.
const quiet = time.Second

// readClosed is ReadFile for complete files: nobody writes them, and nobody begins to while they are read. For any other file the
// *Error is Unsettled, and again is the time after which it may be settled. It is 0 if closing the file will cause an event.
// known is for how long the file is known to be as it is.
func readClosed(path string, known time.Duration) (content []byte, again time.Duration, err error) {
	leased := false
	content, changed, err := readAfter(path, func(file *os.File, info fs.FileInfo) error {
		err := lease.Take(file, info)
		if errors.Is(err, unix.EAGAIN) {
			again = quiet // if no event comes: another machine may be writing
			return &Error{Path: path, Unsettled: true, Flaw: flaws.Flaw{
				Text: "is open for writing: what it said before stays in force", Remedy: "close it in the program that writes it"}}
		}
		leased = err == nil
		return nil
	})
	if err != nil {
		return nil, again, err
	}
	age := time.Since(changed)
	if age < 0 { // the time of the file may be anything (mtime(7)), and somebody may have set the clock back
		age = known
	}
	unended := len(content) > 0 && content[len(content)-1] != '\n'
	if (unended || !leased) && age < quiet {
		return nil, quiet - age, &Error{Path: path, Unsettled: true, Flaw: flaws.Flaw{
			Text: "has just changed, and may be incomplete: what it said before stays in force", Remedy: fmt.Sprintf("wait %v", quiet)}}
	}
	return content, 0, nil
}
