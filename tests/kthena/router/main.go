// Command router is put in front of prefill and decode instances, and carries requests as Kthena's router does.
//
//	router --port 8000 --type nixl --prefill 10.0.0.1:8000 --decode 10.0.0.2:8000
//
// Several instances of a kind are separated by commas; a pair that refuses gives way to the next.
package main

import (
	"crypto/rand"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"

	"ropeway/tests/kthena/carry"
)

func main() {
	host := flag.String("host", "127.0.0.1", "the address to listen on")
	port := flag.String("port", "0", "the port to listen on")
	kind := flag.String("type", "nixl", "ModelServer's kvConnector.type: "+strings.Join(carry.Types, ", "))
	prefill := flag.String("prefill", "", "prefill instances, host:port, separated by commas")
	decode := flag.String("decode", "", "decode instances, likewise")
	flag.Parse()
	pairs, err := pairsOf(*kind, *prefill, *decode)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(*host, *port))
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("carrying as Kthena's type %s, on %s", *kind, listener.Addr())
	log.Fatal(http.Serve(listener, router(pairs)))
}

// pairsOf makes as many pairs as both kinds of instances allow: so many tries has a request.
func pairsOf(kind, prefill, decode string) ([]carry.Pair, error) {
	if !slices.Contains(carry.Types, kind) {
		return nil, fmt.Errorf("no type is called %q; there are: %s", kind, strings.Join(carry.Types, ", "))
	}
	producers, consumers := addresses(prefill), addresses(decode)
	var pairs []carry.Pair
	for at := range min(len(producers), len(consumers)) {
		pairs = append(pairs, carry.Pair{Prefill: producers[at], Decode: consumers[at]})
	}
	if len(pairs) == 0 {
		return nil, fmt.Errorf("a prefill and a decode instance are needed")
	}
	return pairs, nil
}

func addresses(list string) []string {
	return strings.FieldsFunc(list, func(letter rune) bool { return letter == ',' || letter == ' ' })
}

func router(pairs []carry.Pair) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("POST /", func(w http.ResponseWriter, r *http.Request) {
		body, err := carry.Decode(r.Body)
		if err != nil {
			refuse(w, http.StatusBadRequest, err)
			return
		}
		if r.Header.Get("X-Request-Id") == "" {
			r.Header.Set("X-Request-Id", rand.Text())
		}
		// After the first bytes of an answer all that is left is to end it unfinished.
		if err := carry.Through(pairs, w, r, body); err != nil {
			log.Printf("%s: %v", r.Header.Get("X-Request-Id"), err)
			if carry.Begun(err) {
				panic(http.ErrAbortHandler)
			}
			refuse(w, http.StatusInternalServerError, err)
		}
	})
	return mux
}

func refuse(w http.ResponseWriter, status int, why error) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(carry.Body{"error": carry.Body{"message": why.Error(), "code": status}})
}
