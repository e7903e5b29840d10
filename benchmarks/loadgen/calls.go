package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
)

const (
	degradedField = 6 // RecommendResponse.degraded
	forever       = time.Hour
)

// call is what one call met; moments count from the start of the load.
type call struct {
	due, sent, done time.Duration
	code            codes.Code
	degraded        bool

	place           int // which message was sent, over which connection
	on              *connection
	stream          uint32
	message, answer []byte
	told            bool // the server said the code
	last            bool // the headers being read end the stream
	over            bool
}

// peer is what is called: connections that take turns, and the messages that are sent in turn.
//
// One thread does everything, and waits in one place for whatever comes next: an answer, the moment
// at which a call is due, a deadline. A goroutine for each call would cost a wake-up for each of
// them, and more in the scheduler; at a few hundred calls a second that is most of the work.
type peer struct {
	options  options
	turns    []*connection // that new calls go to
	all      []*connection // those, and such as still owe answers
	polled   []unix.PollFd
	messages [][]byte
	began    time.Time
	calls    []*call
	oldest   int // all calls before it are over
	under    int // calls under way
	ended    []*call
}

// connect returns the peer once all its connections have shaken hands.
func connect(o options, messages [][]byte) (*peer, error) {
	p := &peer{options: o, messages: messages, began: time.Now()}
	for range o.connections {
		made, err := dial(o, p.end)
		if err != nil {
			return nil, err
		}
		p.turns, p.all = append(p.turns, made), append(p.all, made)
	}
	for _, c := range p.turns {
		for !c.greeted {
			if time.Since(p.began) > connectWithin {
				return nil, fmt.Errorf("%s: not connected within %s", o.address, connectWithin)
			}
			if err := p.wait(time.Second); err != nil {
				return nil, err
			}
			if c.closing {
				return nil, fmt.Errorf("%s: closes connections", o.address)
			}
		}
	}
	return p, nil
}

func (p *peer) close() {
	for _, c := range p.all {
		c.lose()
	}
}

// send makes a call.
func (p *peer) send(place int, due time.Duration) error {
	one := &call{place: place, due: due, message: p.messages[place%len(p.messages)]}
	p.calls = append(p.calls, one)
	p.under++
	at := place % len(p.turns)
	if p.turns[at].closing {
		made, err := dial(p.options, p.end)
		if err != nil {
			return err
		}
		p.turns[at], p.all = made, append(p.all, made)
	}
	one.sent = time.Since(p.began)
	return p.turns[at].ask(one)
}

// end notes what a call met.
func (p *peer) end(one *call, code codes.Code) {
	one.done, one.code, one.over = time.Since(p.began), code, true
	if code == codes.OK && len(one.answer) > messageHeader {
		one.degraded = hasField(one.answer[messageHeader:], degradedField)
	}
	one.message, one.answer = nil, nil
	p.under--
	p.ended = append(p.ended, one)
}

// wait sends what is to be sent and returns when something came or the time is over.
func (p *peer) wait(most time.Duration) error {
	most = min(most, p.expire())
	p.polled = p.polled[:0]
	kept := p.all[:0]
	for _, c := range p.all {
		if err := p.still(c, c.flush()); err != nil {
			return err
		}
		if c.closing && len(c.streams) == 0 {
			c.lose()
			continue
		}
		kept = append(kept, c)
		events := int16(unix.POLLIN)
		if c.out.Len() > 0 {
			events |= unix.POLLOUT
		}
		p.polled = append(p.polled, unix.PollFd{Fd: int32(c.fd), Events: events})
	}
	p.all = kept
	if len(p.ended) > 0 { // by a connection that was lost
		return nil
	}
	if err := poll(p.polled, most); err != nil {
		return err
	}
	for i, c := range p.all {
		if p.polled[i].Revents&^unix.POLLOUT != 0 {
			if err := p.still(c, c.receive()); err != nil {
				return err
			}
		}
	}
	return nil
}

// poll waits for one of the files, at most so long.
//
// unix.Ppoll would tell Go's scheduler before and after, which wakes a thread each time that looks
// for other goroutines to run: there are none.
func poll(files []unix.PollFd, most time.Duration) error {
	limit := unix.NsecToTimespec(max(0, most.Nanoseconds()))
	_, _, failed := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(unsafe.SliceData(files))),
		uintptr(len(files)), uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
	if failed != 0 && failed != unix.EINTR {
		return failed
	}
	return nil
}

// still closes a connection that was lost; any other error is the caller's.
func (p *peer) still(c *connection, err error) error {
	if errors.Is(err, errLost) {
		c.lose()
		return nil
	}
	return err
}

// expire ends the calls past their deadline. Returns how long until the next one's.
func (p *peer) expire() time.Duration {
	for ; p.oldest < len(p.calls); p.oldest++ {
		one := p.calls[p.oldest]
		if one.over {
			continue
		}
		if left := one.sent + p.options.timeout - time.Since(p.began); left > 0 {
			return left
		}
		one.on.give(one)
		p.end(one, codes.DeadlineExceeded)
	}
	return forever
}

// schedule returns when each call of an open loop is due.
func schedule(o options) ([]time.Duration, error) {
	random := rand.New(rand.NewPCG(o.seed, 0))
	var due []time.Duration
	for at := 0.0; ; {
		switch o.arrivals {
		case "constant":
			at = float64(len(due)) / o.rate
		case "poisson":
			at += random.ExpFloat64() / o.rate
		default:
			return nil, fmt.Errorf("-arrivals must be constant or poisson, got %q", o.arrivals)
		}
		if at >= o.seconds {
			return due, nil
		}
		due = append(due, time.Duration(at*float64(time.Second)))
	}
}

// openLoop sends every call when it is due, whatever became of those before.
func openLoop(p *peer, due []time.Duration) error {
	p.began = time.Now()
	for next := 0; next < len(due) || p.under > 0; p.ended = p.ended[:0] {
		now := time.Since(p.began)
		for ; next < len(due) && due[next] <= now; next++ {
			if err := p.send(next, due[next]); err != nil {
				return err
			}
		}
		most := forever
		if next < len(due) {
			most = due[next] - time.Since(p.began)
		}
		if err := p.wait(most); err != nil {
			return err
		}
	}
	return nil
}

// closedLoop lets each caller send its next call when its last one is answered.
func closedLoop(p *peer, o options) error {
	p.began = time.Now()
	for caller := range o.callers {
		if err := p.send(caller, time.Since(p.began)); err != nil {
			return err
		}
	}
	for p.under > 0 {
		if err := p.wait(forever); err != nil {
			return err
		}
		for _, one := range p.ended {
			if now := time.Since(p.began); now.Seconds() < o.seconds {
				if err := p.send(one.place+o.callers, now); err != nil {
					return err
				}
			}
		}
		p.ended = p.ended[:0]
	}
	return nil
}

// hasField tells whether a message holds a field, from its tags alone.
func hasField(message []byte, number uint64) bool {
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return false
		}
		if tag>>3 == number {
			return true
		}
		message = message[n:]
		size := 0
		switch tag & 7 {
		case 0:
			_, size = binary.Uvarint(message)
		case 1:
			size = 8
		case 2:
			length, n := binary.Uvarint(message)
			if n <= 0 || length > uint64(len(message)) {
				return false
			}
			size = n + int(length)
		case 5:
			size = 4
		}
		if size <= 0 || size > len(message) {
			return false
		}
		message = message[size:]
	}
	return false
}
