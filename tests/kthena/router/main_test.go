package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"ropeway/tests/kthena/carry"
)

// The strings of the `ropeway` object are as long as real ones: an address, a life, a lease, a secret.
const (
	life   = "fedcba9876543211"
	lease  = "3f5cfe1d4f0aa0c98b1d6f2ce07b55aa"
	secret = "ffffffffffffffffeeeeeeeeeeeeeeeeddddddddddddddddcccccccccccccccc"
	params = `{"do_remote_prefill": true, "do_remote_decode": false, "remote_block_ids": [[3, 1, 4095]],
		"remote_engine_id": "p", "remote_host": null, "remote_port": 14579, "remote_num_tokens": 131072,
		"ropeway": {"address": "10.1.2.3:14579", "incarnation": "` + life + `", "lease": "` + lease + `",
		"secret": "` + secret + `"}, "number": 18446744073709551557}`
	wait = 20 * time.Second
)

// instance is a fake server: it notes what it is asked, and answers as told.
type instance struct {
	*httptest.Server
	mutex   sync.Mutex
	asked   []carry.Body
	headers []http.Header
}

func serve(t *testing.T, answer http.HandlerFunc) *instance {
	one := &instance{}
	one.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := carry.Decode(r.Body)
		if err != nil {
			t.Error(err)
		}
		one.mutex.Lock()
		one.asked, one.headers = append(one.asked, body), append(one.headers, r.Header.Clone())
		one.mutex.Unlock()
		answer(w, r)
	}))
	t.Cleanup(one.Close)
	return one
}

func (i *instance) address() string { return strings.TrimPrefix(i.URL, "http://") }

func (i *instance) requests() []carry.Body {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	return i.asked
}

func says(kind, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		fmt.Fprint(w, text)
	}
}

func lends(params string) http.HandlerFunc {
	return says("application/json", `{"choices": [{}], "kv_transfer_params": `+params+`}`)
}

func refuses(w http.ResponseWriter, _ *http.Request) { http.Error(w, "refused by the fake", 503) }

const events = `data: {"choices":[{"text":"a"}]}` + "\n\n" +
	`data: {"choices":[],"usage":{"completion_tokens":1}}` + "\n\ndata: [DONE]\n\n"

func inFront(t *testing.T, kind string, prefill, decode []*instance) *httptest.Server {
	list := func(all []*instance) string {
		var addresses []string
		for _, one := range all {
			addresses = append(addresses, one.address())
		}
		return strings.Join(addresses, ",")
	}
	pairs, err := pairsOf(kind, list(prefill), list(decode))
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(router(pairs))
	t.Cleanup(front.Close)
	return front
}

func ask(t *testing.T, front *httptest.Server, body string) (int, string) {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	request, _ := http.NewRequestWithContext(ctx, "POST", front.URL+"/v1/completions", strings.NewReader(body))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(said)
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	one, _ := json.Marshal(got)
	other, _ := json.Marshal(want)
	if string(one) != string(other) {
		t.Errorf("%s is %s, not %s", what, one, other)
	}
}

// one asks one request of one pair, and gives what each instance was asked.
func one(t *testing.T, kind, body string, answer, decoded http.HandlerFunc) (first, second carry.Body, said string) {
	p, d := serve(t, answer), serve(t, decoded)
	status, said := ask(t, inFront(t, kind, []*instance{p}, []*instance{d}), body)
	if status != 200 || len(p.requests()) != 1 || len(d.requests()) != 1 {
		t.Fatalf("%d %s, %d and %d requests", status, said, len(p.requests()), len(d.requests()))
	}
	id := p.headers[0].Get("X-Request-Id")
	if id == "" || id != d.headers[0].Get("X-Request-Id") {
		t.Errorf("the legs have the request ids %q and %q", id, d.headers[0].Get("X-Request-Id"))
	}
	return p.asked[0], d.asked[0], said
}

func TestBothTypesAskPrefillForOneTokenAtOnceAndWithoutRemoteKeys(t *testing.T) {
	for _, kind := range carry.Types {
		first, second, _ := one(t, kind, `{"prompt": [1, 2], "max_tokens": 8, "stream": true,
			"stream_options": {"include_usage": true}, "max_completion_tokens": 8, "seed": 7}`,
			lends(params), says("text/event-stream", events))
		equal(t, "the first request", first, carry.Body{"prompt": []int{1, 2}, "max_tokens": 1, "seed": 7,
			"max_completion_tokens": 1, carry.Transfer: carry.Body{"do_remote_decode": true, "do_remote_prefill": false}})
		delete(second, carry.Transfer)
		equal(t, "the second", second, carry.Body{"prompt": []int{1, 2}, "max_tokens": 8, "stream": true, "seed": 7,
			"max_completion_tokens": 8, "stream_options": carry.Body{"include_usage": true}})
	}
}

func TestTheFirstRequestGetsNoKeysThatTheClientDidNotSend(t *testing.T) {
	first, second, _ := one(t, "nixl", `{"prompt": "a"}`, lends(params), says("application/json", "{}"))
	equal(t, "the first request", len(first), 3) // prompt, max_tokens, kv_transfer_params
	equal(t, "usage of the second", second["include_usage"], true)
}

func TestStringsAndNullsAndSmallNumbersArriveAsTheyWereAndLargeNumbersDoNot(t *testing.T) {
	_, second, _ := one(t, "mooncake", `{"prompt": "a"}`, lends(params), says("application/json", "{}"))
	arrived := second[carry.Transfer].(carry.Body)
	equal(t, "the object", arrived["ropeway"], carry.Body{"address": "10.1.2.3:14579", "incarnation": life,
		"lease": lease, "secret": secret})
	equal(t, "ids", arrived["remote_block_ids"], [][]int{{3, 1, 4095}})
	equal(t, "tokens", arrived["remote_num_tokens"], 131072)
	if null, there := arrived["remote_host"]; !there || null != nil {
		t.Errorf("a null is to arrive as one; got %v, %v", null, there)
	}
	// The reason for strings: this is what becomes of the life as a number.
	if text, _ := json.Marshal(arrived["number"]); string(text) != "18446744073709552000" {
		t.Errorf("a number of 64 bits arrived as %s", text)
	}
}

func TestDecodeGetsNullWherePrefillSaidNothing(t *testing.T) {
	for _, answer := range []string{`{"choices": []}`, `{"choices": [], "kv_transfer_params": null}`} {
		_, second, _ := one(t, "nixl", `{"prompt": "a"}`, says("application/json", answer), says("application/json", "{}"))
		if null, there := second[carry.Transfer]; !there || null != nil {
			t.Errorf("after %s decode got %v, %v", answer, null, there)
		}
	}
}

func TestUsageIsSeenInAStreamByClientsThatAskedForItOnly(t *testing.T) {
	stream := says("text/event-stream; charset=utf-8", events)
	_, second, said := one(t, "nixl", `{"prompt": "a", "stream": true}`, lends(params), stream)
	equal(t, "options of the second", second["stream_options"], carry.Body{"include_usage": true})
	if strings.Contains(said, "usage") || !strings.Contains(said, `"a"`) || !strings.Contains(said, "[DONE]") {
		t.Errorf("a client that did not ask was sent %q", said)
	}
	_, _, said = one(t, "nixl", `{"prompt": "a", "stream": true, "stream_options": {"include_usage": true}}`,
		lends(params), stream)
	equal(t, "the stream", said, events)
}

func TestEventsArriveOneByOneAndALeavingClientEndsDecode(t *testing.T) {
	ended := make(chan struct{})
	p := serve(t, lends(params))
	d := serve(t, func(w http.ResponseWriter, r *http.Request) {
		says("text/event-stream", "data: 1\n\n")(w, r)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(ended)
	})
	front := inFront(t, "nixl", []*instance{p}, []*instance{d})
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	request, _ := http.NewRequestWithContext(ctx, "POST", front.URL, strings.NewReader(`{"stream": true}`))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(response.Body).ReadString('\n'); err != nil || line != "data: 1\n" {
		t.Fatalf("the first event is %q, %v", line, err)
	}
	response.Body.Close()
	select {
	case <-ended:
	case <-time.After(wait):
		t.Error("decode was not told that the client left")
	}
}

func TestARefusedLegIsTriedOnTheNextPairWithAPrefillOfItsOwn(t *testing.T) {
	good, decodes := serve(t, lends(params)), serve(t, says("application/json", `{"from": "d"}`))
	for name, bad := range map[string][2]*instance{
		"prefill": {serve(t, refuses), serve(t, refuses)},
		"decode":  {serve(t, lends(params)), serve(t, refuses)},
	} {
		before := len(good.requests())
		front := inFront(t, "nixl", []*instance{bad[0], good}, []*instance{bad[1], decodes})
		if status, said := ask(t, front, `{"prompt": "a"}`); status != 200 || said != `{"from": "d"}` {
			t.Errorf("%s refused: %d %s", name, status, said)
		}
		equal(t, "prefills on the second pair", len(good.requests())-before, 1)
		equal(t, "requests to a decode whose prefill was refused", len(bad[1].requests()), map[string]int{"decode": 1}[name])
	}
}

func TestWhenAllPairsRefuseTheClientIsToldWhatEachSaid(t *testing.T) {
	bad := serve(t, refuses)
	front := inFront(t, "nixl", []*instance{bad, bad, bad}, []*instance{bad, bad})
	status, said := ask(t, front, `{"prompt": "a"}`)
	if status != 500 || strings.Count(said, "refused by the fake") != 2 {
		t.Errorf("%d %s", status, said)
	}
}

func TestAnAnswerThatBreaksOffIsNotEndedAsIfItWereWhole(t *testing.T) {
	p := serve(t, lends(params))
	d := serve(t, func(w http.ResponseWriter, r *http.Request) {
		says("text/event-stream", "data: 1\n\n")(w, r)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	front := inFront(t, "nixl", []*instance{p, p}, []*instance{d, d})
	response, err := http.Post(front.URL, "application/json", strings.NewReader(`{"stream": true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if said, err := io.ReadAll(response.Body); err == nil {
		t.Errorf("%q came as a whole answer", said)
	}
	equal(t, "tries", len(d.requests()), 1)
}

func TestUnknownTypesAndMissingInstancesAreRefusedAtTheStart(t *testing.T) {
	for _, wrong := range [][3]string{{"http", "a", "b"}, {"nixl", "", "b"}, {"nixl", "a", ""}} {
		if pairs, err := pairsOf(wrong[0], wrong[1], wrong[2]); err == nil {
			t.Errorf("%v gave %v", wrong, pairs)
		}
	}
}
