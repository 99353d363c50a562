// Package carry takes an OpenAI request through a prefill and a decode instance in the order, and with the changes, that
// Kthena's router makes for its connector types `nixl` and `mooncake`.
//
// It is a statement of that behaviour in our own words, read off Kthena's sources of August 2026; it is not Kthena's code.
// Both types are one flow there. What matters to a connector: bodies are decoded into Go's any, so every number is a
// float64; the first request has no remote_* keys at all; what prefill answers under kv_transfer_params is passed on
// unread, and as null when it is not there.
package carry

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"strings"
)

// Transfer is the key under which connectors talk to each other through a router.
const Transfer = "kv_transfer_params"

// Types of ModelServer's kvConnector that pass transfer parameters on.
var Types = []string{"nixl", "mooncake"}

// Pair is a prefill and a decode instance, as host:port.
type Pair struct{ Prefill, Decode string }

// Body is a request or an answer as Go reads JSON that it knows nothing of.
type Body = map[string]any

var errBegun = errors.New("the answer broke off")

// Begun tells whether the client was sent a part of an answer: nobody else can answer it any more.
func Begun(err error) bool { return errors.Is(err, errBegun) }

// Requests to instances leave by no proxy of the surroundings, and there is no timeout: the client's patience decides.
var transport = &http.Transport{MaxIdleConnsPerHost: 64}

// Through tries the pairs in turn, each with a prefill of its own, until one answers the client.
func Through(pairs []Pair, w http.ResponseWriter, r *http.Request, body Body) error {
	var said []error
	for _, pair := range pairs {
		err := pair.carry(w, r, body)
		if err == nil || Begun(err) || r.Context().Err() != nil {
			return err
		}
		said = append(said, err)
	}
	return errors.Join(said...)
}

func (p Pair) carry(w http.ResponseWriter, r *http.Request, body Body) error {
	params, err := prefill(r, p.Prefill, body)
	if err != nil {
		return fmt.Errorf("prefill: %w", err)
	}
	decoding, hide := decodeBody(body, params)
	response, err := send(r, p.Decode, decoding)
	if err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	defer response.Body.Close()
	return answer(w, response, hide)
}

// prefill gives what the instance says under the transfer key: anything, or nil.
func prefill(r *http.Request, address string, body Body) (any, error) {
	response, err := send(r, address, prefillBody(body))
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	said, err := Decode(response.Body)
	if err != nil {
		return nil, err
	}
	return said[Transfer], nil
}

// prefillBody asks for one token, at once; min_tokens is left as the client had it.
func prefillBody(body Body) Body {
	asked := maps.Clone(body)
	delete(asked, "stream")
	delete(asked, "stream_options")
	asked["max_tokens"] = 1
	if asked["max_completion_tokens"] != nil {
		asked["max_completion_tokens"] = 1
	}
	asked[Transfer] = Body{"do_remote_decode": true, "do_remote_prefill": false}
	return asked
}

// decodeBody is what the client asked, with the parameters, and with usage, which the router counts tokens by. Where the
// client did not ask for usage in a stream, it is to be hidden from it.
func decodeBody(body Body, params any) (asked Body, hide bool) {
	asked = maps.Clone(body)
	asked[Transfer] = params
	if stream, _ := asked["stream"].(bool); !stream {
		asked["include_usage"] = true
		return asked, false
	}
	options, _ := asked["stream_options"].(Body)
	if wanted, _ := options["include_usage"].(bool); !wanted {
		asked["stream_options"] = Body{"include_usage": true}
		return asked, true
	}
	return asked, false
}

// send posts to the same page with the client's headers. Anything but success is an error.
func send(r *http.Request, address string, body Body) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	// The client's context: who leaves ends what was asked in its name.
	url := "http://" + address + r.URL.Path
	request, err := http.NewRequestWithContext(r.Context(), http.MethodPost, url, bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	request.Header = r.Header.Clone()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode < 200 || response.StatusCode > 299 {
		defer response.Body.Close()
		said, _ := io.ReadAll(io.LimitReader(response.Body, 300))
		return nil, fmt.Errorf("%s %s", response.Status, said)
	}
	return response, nil
}

func answer(w http.ResponseWriter, response *http.Response, hide bool) error {
	maps.Copy(w.Header(), response.Header)
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	streamed := kind == "text/event-stream"
	if streamed {
		// Lines may be hidden.
		w.Header().Del("Content-Length")
	}
	w.WriteHeader(response.StatusCode)
	var err error
	if streamed {
		err = stream(w, response.Body, hide)
	} else {
		_, err = io.Copy(w, response.Body)
	}
	if err != nil {
		return errors.Join(errBegun, err)
	}
	return nil
}

// stream passes events on line by line, as they come.
func stream(w http.ResponseWriter, events io.Reader, hide bool) error {
	out := http.NewResponseController(w)
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadString('\n')
		if line != "" && !(hide && tellsUsage(line)) {
			if _, err := io.WriteString(w, line); err != nil {
				return err
			}
			if err := out.Flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func tellsUsage(line string) bool {
	var event struct {
		Usage struct {
			Completion float64 `json:"completion_tokens"`
		} `json:"usage"`
	}
	data, found := strings.CutPrefix(line, "data: ")
	return found && json.Unmarshal([]byte(data), &event) == nil && event.Usage.Completion > 0
}

// Decode reads an object as Go does where nothing is known of it: numbers become float64.
func Decode(from io.Reader) (Body, error) {
	var body Body
	if err := json.NewDecoder(from).Decode(&body); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	return body, nil
}
